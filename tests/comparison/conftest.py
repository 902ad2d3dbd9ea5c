"""A small comparison, on disk."""

from comparison_fixtures import config  # noqa: F401 (a fixture)
