"""Images in tar files, as WebDataset's shards have them: one by one at random, or all in their order; here or remote.

A shard is a plain tar: for each sample `KEY.jpg` (an image file of any format), and `KEY.json` or `KEY.txt` with its
captions. Remote is whatever fsspec opens: `s3://`, `gs://`, `https://`, ...

Tars are read with the standard library: it says where in a tar a file lies, which is what reading at random takes. And
nothing that lies in a shard is run, unpickled or written to the disk; WebDataset's own decoders unpickle, and its
`pipe:` URLs are programs.
"""

from captioner.data.images import is_remote
from captioner.data.shards.index import index_place, index_shard
from captioner.data.shards.marks import ShardError, to_pack
from captioner.data.shards.names import find_all, find_shards, is_shard
from captioner.data.shards.storage import Copies, Shard, ShardImage
from captioner.data.shards.stream import stream_shard
from captioner.data.shards.writer import write_shards

__all__ = [
    "Copies",
    "Shard",
    "ShardError",
    "ShardImage",
    "find_all",
    "find_shards",
    "index_place",
    "index_shard",
    "is_remote",
    "is_shard",
    "stream_shard",
    "to_pack",
    "write_shards",
]
