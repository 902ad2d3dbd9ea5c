"""Photos, encoders and regions."""

from feature_fixtures import encoder, folder, images, items, pictures  # noqa: F401 (fixtures)
