"""Photos and an encoder."""

from feature_fixtures import encoder, folder, items  # noqa: F401 (fixtures)
