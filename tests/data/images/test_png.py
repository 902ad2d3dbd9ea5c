"""A PNG's notes, however long or damaged, do not make its pixels unreadable, and are not unpacked."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from image_cases import difference, encoded, photo
from PIL import Image

from captioner.data.images import open_image
from captioner.data.images.png import MAX_NOTE, MAX_NOTES, without_long_notes
from captioner.types import ImageError


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def noted(*chunks: bytes, behind: bool = False, **options: object) -> bytes:
    """A PNG with chunks before its pixels, or behind them."""
    png = encoded(photo(), "PNG", **options)
    place = png.index(b"IEND") - 4 if behind else 33
    return png[:place] + b"".join(chunks) + png[place:]


MEGABYTES = b"x" * (2 << 20)
PACKED = zlib.compress(MEGABYTES)
NOTES = {
    "a long text, compressed": chunk(b"zTXt", b"prompt\0\0" + PACKED),
    "a long international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + PACKED),
    "a long text as it is": chunk(b"tEXt", b"prompt\0" + MEGABYTES),
    "a large colour profile": chunk(b"iCCP", b"icc\0\0" + PACKED),
    "a text of an unknown compression": chunk(b"zTXt", b"prompt\0\7" + PACKED),
    "a damaged colour profile": chunk(b"iCCP", b"icc\0\0no zlib"),
    "a text with a wrong checksum": chunk(b"tEXt", b"prompt\0text", checksum=1),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*", checksum=1),
    "damaged EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", NOTES)
def test_pixels_need_no_notes(name, behind):
    assert difference(open_image(noted(NOTES[name], behind=behind)), photo()) == 0


def test_many_texts_are_no_harm():
    """Of more than Pillow's 64 MB together; they are the same 40 times."""
    assert difference(open_image(noted(*[chunk(b"tEXt", b"prompt\0" + MEGABYTES)] * 40)), photo()) == 0


def test_a_photo_is_upright_whatever_its_texts():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo().transpose(Image.Transpose.ROTATE_270)
    assert difference(open_image(noted(NOTES["a long text, compressed"], exif=exif)), turned) == 0
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    png = noted(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp), NOTES["a large colour profile"])
    assert difference(open_image(png), turned) == 0


def test_a_damaged_png_stays_so():
    png = noted(NOTES["a long text, compressed"])
    for content in (png[:-60], png.replace(b"IDAT", b"IDAU"), png[:33] + chunk(b"zTXt", b"a\0\0" + PACKED)):
        with pytest.raises(ImageError, match="damaged"):
            open_image(content)


def test_a_copy_holds_what_is_short_and_sound():
    short, packed = chunk(b"tEXt", b"a\0short"), chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"short"))
    long = chunk(b"tEXt", b"a\0" + b"x" * MAX_NOTE)
    copy = without_long_notes(io.BytesIO(noted(short, long, packed, NOTES["a text with a wrong checksum"])))
    assert copy.read() == noted(short)
    copy.close()
    assert without_long_notes(io.BytesIO(noted(short))) is None
    many = chunk(b"tEXt", b"a\0" + b"x" * (MAX_NOTE - 2))
    with without_long_notes(io.BytesIO(noted(*[many] * 30))) as copy:
        assert len(copy.read()) < MAX_NOTES + 10_000
