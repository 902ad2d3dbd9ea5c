"""Data of drawn shapes."""

from task_fixtures import make_data, pictures  # noqa: F401 (fixtures)
