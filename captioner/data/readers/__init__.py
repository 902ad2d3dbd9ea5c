"""Readers: from a data set's own files to a list of its items.

A reader says which splits there are and reads one of them. To add a data set, write one file with a subclass of
`Reader` (of sentences: `TextReader`); to have its folder recognised, give the class `layouts` and `find`, and add it
to `READERS` in `find.py`, a line.
"""

from captioner.data.readers.base import Reader, TextReader, find_split, usual_split
from captioner.data.readers.coco import CocoCaptions
from captioner.data.readers.dates import Dates
from captioner.data.readers.find import find_reader, read_data
from captioner.data.readers.flickr8k import Flickr8k
from captioner.data.readers.folder import CaptionFolder
from captioner.data.readers.karpathy import KarpathySplit
from captioner.data.readers.parallel_text import ParallelText
from captioner.data.readers.shapes import SyntheticShapes
from captioner.data.readers.shards import Shards

__all__ = [
    "CaptionFolder",
    "CocoCaptions",
    "Dates",
    "Flickr8k",
    "KarpathySplit",
    "ParallelText",
    "Reader",
    "Shards",
    "SyntheticShapes",
    "TextReader",
    "find_reader",
    "find_split",
    "read_data",
    "usual_split",
]
