"""Data: from files to batches.

The rooms stand in the order in which data go through them, and each uses only those before it:

    images/     opening and finding images, fitting them to the encoder's square, augmentation
    shards/     images that lie in tar files
    features/   features that were computed before: caches of grids, files of regions
    readers/    from a data set's own files to its items, a file for each data set
    sources/    what an encoder takes of an item: pixels, cached features, regions, words
    batches/    items with their captions as batches, in every epoch's order

Nothing that is imported here imports torch before the first image is transformed.
"""

from captioner.data.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    PAD_VALUE,
    Augmentation,
    ImageSource,
    ImageTransform,
    Photo,
    find_images,
    open_image,
    open_photo,
)
from captioner.data.readers import (
    CaptionFolder,
    CocoCaptions,
    Flickr8k,
    KarpathySplit,
    ParallelText,
    Reader,
    Shards,
    TextReader,
    find_reader,
)
from captioner.data.shards import stream_shard
from captioner.data.sources.sentences import TextError, TextTransform
from captioner.types import ImageError, InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "PAD_VALUE",
    "Augmentation",
    "CaptionFolder",
    "CocoCaptions",
    "Flickr8k",
    "ImageError",
    "ImageSource",
    "ImageTransform",
    "InputError",
    "KarpathySplit",
    "ParallelText",
    "Photo",
    "Reader",
    "Shards",
    "TextError",
    "TextReader",
    "TextTransform",
    "find_images",
    "find_reader",
    "open_image",
    "open_photo",
    "stream_shard",
]
