"""Data of drawn shapes, for whatever trains on them."""

from task_fixtures import make_data, pictures  # noqa: F401 (fixtures)
