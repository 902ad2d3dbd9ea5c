"""What a file is by its first bytes: the kinds of images there are, those that are not read here included."""

from __future__ import annotations

import os
import re

HEAD = 64
"""How many of a file's first bytes tell what it is."""

# fmt: off
RAW_SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))
# fmt: on
"""Suffixes of cameras' raw photos; most of these files are TIFFs, with a small preview as their first picture."""

PHOTO_SUFFIXES = frozenset({".heic", ".heif", ".hif", ".avif", ".jxl"}) | RAW_SUFFIXES
"""Suffixes of photos that Pillow alone may not read."""

HEIC, AVIF, JXL, RAW = "a HEIC photo", "an AVIF image", "a JPEG XL image", "a camera's raw photo"
EXR, RADIANCE = "an OpenEXR image", "a Radiance image"

_BRANDS = {
    HEIC: (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
    AVIF: (b"avif", b"avis"),
    RAW: (b"crx ",),
}
_SIGNATURES = {  # those that begin no text, and no file of another kind
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}",
    RAW: rb"II\x2a\0.{4}CR|IIR[OS]|IIU\0|MMOR|FUJIFILMCCD-RAW|FOVb|II.\0{3}HEAPCCDR|\0MRM",
    "TIFF": rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]",
    "JPEG 2000": rb"\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    JXL: rb"\0{3}\x0cJXL \r\n\x87\n|\xff\x0a",
    "PSD": rb"8BPS\0[\1\2]",
    "QOI": rb"qoif",
    "PNM": rb"P[4-6f]\s+(?:#|\d+\s)",
    EXR: rb"\x76\x2f\x31\x01",
    RADIANCE: rb"#\?(?:RADIANCE|RGBE)\n",
}
_PATTERNS = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _SIGNATURES.items()}


def kind_of(head: bytes) -> str | None:
    """The kind of image that a file of these first bytes (`HEAD` or all) is; None if it is none."""
    if head[4:8] == b"ftyp":  # the family of MP4, most of which are videos
        end = min(int.from_bytes(head[:4], "big"), HEAD)
        brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
        own = [kind for brand in brands for kind, names in _BRANDS.items() if brand in names]
        return AVIF if AVIF in own else own[0] if own else None  # an AVIF is a "mif1", too
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.match(head)), None)


def suffix_of(name: str) -> str:
    """A file's suffix, lower case, with its dot."""
    return os.path.splitext(name)[1].lower()
