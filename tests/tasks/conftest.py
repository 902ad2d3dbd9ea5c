"""Data of drawn shapes and in shards, for whatever trains on them."""

from shard_fixtures import packed, photos  # noqa: F401 (fixtures)
from task_fixtures import make_data, pictures  # noqa: F401
