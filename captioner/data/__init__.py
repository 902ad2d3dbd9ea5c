"""Data: opening and finding images, fitting them to the encoder's square, reading data sets; sentences in their place.

Nothing here imports torch before the first image is transformed.
"""

from captioner.data.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageError,
    ImageSource,
    InputError,
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
    Reader,
    find_reader,
)
from captioner.data.shard_sets import Shards
from captioner.data.shards import stream_shard
from captioner.data.text import ParallelText, TextError, TextReader, TextTransform
from captioner.data.transforms import PAD_VALUE, Augmentation, ImageTransform

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
