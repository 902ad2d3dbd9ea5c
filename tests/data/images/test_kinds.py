"""The first bytes of a file say whether it is an image; what is none is never taken for one."""

from __future__ import annotations

import struct

import pytest
from image_cases import encoded, photo
from PIL import Image

from captioner.data.images.kinds import AVIF, HEAD, HEIC, JXL, PHOTO_SUFFIXES, RAW, RAW_SUFFIXES, kind_of, suffix_of


def box(brand: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + brand + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", len(body) + 4) + body + b"\0\0\0\x08mdat"


HEIC_HEAD = box(b"heic", b"mif1", b"heic")
UNREAD_HEADS = {
    HEIC: (HEIC_HEAD, box(b"mif1", b"heic"), box(b"MiHE", b"MiPr", b"mif1")),
    AVIF: (box(b"avif", b"mif1", b"miaf"), box(b"mif1", b"avif")),
    JXL: (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a\xfa\x7f"),
    RAW: (
        box(b"crx "),
        b"II*\0\x10\0\0\0CR\2\0",
        b"IIRO\x08\0",
        b"IIU\0\x18\0",
        b"FUJIFILMCCD-RAW 0201",
        b"FOVb",
        b"\0MRM",
    ),
}


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        *[(name, name) for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "QOI")],
        ("WEBP", "WebP"),
        ("JPEG2000", "JPEG 2000"),
        ("PPM", "PNM"),
        ("MPO", "JPEG"),
        ("AVIF", AVIF),
    ],
)
def test_images_are_known(format, kind):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    assert kind_of(encoded(photo(), format)[:HEAD]) == kind
    assert kind_of(encoded(photo().resize((1, 1)), format)[:HEAD]) == kind


@pytest.mark.parametrize("kind", UNREAD_HEADS)
def test_images_that_pillow_may_not_read_are_known(kind):
    assert [kind_of(head) for head in UNREAD_HEADS[kind]] == [kind] * len(UNREAD_HEADS[kind])
    assert [kind_of(b"MM\0*\0\0\0\x08"), kind_of(b"II+\0"), kind_of(b"8BPS\0\1")] == ["TIFF", "TIFF", "PSD"]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff",
        b"a man rides a horse",
        "ein Füße".encode("utf-16"),
        b"BMW are cars made in Munich, and this is no image at all",
        b"P1 is a number; P6 is what a PPM begins with",
        b"Python is a language",
        b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>",
        b'{"image": "a.jpg"}',
        b"\0\0\0\1Bud1\0\0",  # .DS_Store
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",  # Thumbs.db
        box(b"isom", b"iso2", b"avc1", b"mp41"),
        box(b"qt  "),
        box(b"M4A "),
        b"RIFF\0\0\0\0AVI LIST",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\x1aE\xdf\xa3",  # Matroska
        b"%PDF-1.7",
        b"PK\3\4",
        b"\x93NUMPY\1\0",
        b"PAR1",
        b"\0" * HEAD,
    ],
)
def test_what_is_no_image_is_none(head):
    assert kind_of(head) is None


def test_suffixes():
    assert [suffix_of(name) for name in ("a/b.JPG", "a.b/c", "x.tar.HEIC", ".hidden")] == [".jpg", "", ".heic", ""]
    assert {".heic", ".heif", ".jxl", ".dng", ".nef", ".cr3"} <= PHOTO_SUFFIXES
    assert RAW_SUFFIXES < PHOTO_SUFFIXES
