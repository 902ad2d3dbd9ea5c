"""The contract: what the rooms of this package hand to one another. Read it first.

`memory.py` is what a model looks at, `sequences.py` what moves word by word, `items.py` what comes out of a data set,
`source.py` where what it looks at comes from, `maps.py` where a model looked, `limits.py` what numbers a part may have.

Names of sizes, here and everywhere: B images, K sequences per image, L locations, D feature size,
T words, V vocabulary, H hidden size, A attention size. What moves word by word is (B, K, ...), what
belongs to the image is (B, L, ...), and nothing of the image is ever copied per sequence.
"""

from captioner.types.items import Batch, CaptionedImage, ImageError, InputError, Item, PackedImage, TextPair
from captioner.types.maps import AttentionMaps, GridMaps, RegionMaps, WordMaps
from captioner.types.memory import Kind, Memory, Segment
from captioner.types.sequences import Attended, Feed, Found, Hypothesis, Reading, State, Step, TeacherForced
from captioner.types.source import Opened, Source, Transform

__all__ = [
    "Attended",
    "AttentionMaps",
    "Batch",
    "CaptionedImage",
    "Feed",
    "Found",
    "GridMaps",
    "Hypothesis",
    "ImageError",
    "InputError",
    "Item",
    "Kind",
    "Memory",
    "Opened",
    "PackedImage",
    "Reading",
    "RegionMaps",
    "Segment",
    "Source",
    "State",
    "Step",
    "TeacherForced",
    "TextPair",
    "Transform",
    "WordMaps",
]
