"""Image-major batches: an image is loaded, moved and encoded once for its K captions.

Sentences that are read in place of images go the same way: read "image" as "image or sentence".
Images of alike caption length share a batch, and inside a batch longer captions come first, so that
a decoder spends nothing on rows that have ended. What is in a batch depends on (seed, epoch) alone and
the loader knows which batches were used, so that a training run that was cut off goes on where it was.

Reading order: `captions.py` (captions as arrays), `examples.py` (from items to a batch), `order.py` (which images make
which batch), `loader.py` (loading them).
"""

from captioner.data.batches.captions import EncodedCaptions, pad_captions
from captioner.data.batches.examples import CaptionDataset, Collate, Example, HostBatch, Place, Problem, move
from captioner.data.batches.loader import BatchLoader, LoadError, ResumableLoader
from captioner.data.batches.order import BucketedBatches, EpochBatches, OrderedBatches

__all__ = [
    "BatchLoader",
    "BucketedBatches",
    "CaptionDataset",
    "Collate",
    "EncodedCaptions",
    "EpochBatches",
    "Example",
    "HostBatch",
    "LoadError",
    "OrderedBatches",
    "Place",
    "Problem",
    "ResumableLoader",
    "move",
    "pad_captions",
]
