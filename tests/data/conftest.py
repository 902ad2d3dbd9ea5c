"""Photos, and shards of them."""

from shard_fixtures import packed, photos, remote  # noqa: F401 (fixtures)
