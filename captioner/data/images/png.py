"""PNG files whose notes Pillow refuses: long texts, large or damaged colour profiles. The pixels need none of them."""

from __future__ import annotations

import tempfile
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
NOTES = {b"eXIf", b"tEXt", b"iTXt"}  # which may say how the photo was held
MAX_NOTE = 1 << 16  # bytes of one that is kept
MAX_NOTES = 1 << 20  # of all that are kept
PIECE = 1 << 20  # bytes that are copied at a time


def without_long_notes(file: BinaryIO) -> BinaryIO | None:
    """A copy of a PNG file, on the disk, with the chunks that its pixels need and its short notes.

    Notes are texts that are not compressed, and EXIF; nothing is unpacked. A file that is cut short stays so.

    Args:
        file: the file, which can be read anywhere.

    Returns:
        The copy; None if it would be the same.
    """
    copy: BinaryIO = tempfile.TemporaryFile()  # type: ignore[assignment]  # noqa: SIM115 (closed by who asked for it)
    copy.write(SIGNATURE)
    file.seek(len(SIGNATURE))
    room, num_left_out = MAX_NOTES, 0
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        begin = file.tell()
        if kind in PIXELS:
            copy.write(head)
            _copy(file, copy, length + 4)
        elif kind in NOTES and length <= min(MAX_NOTE, room) and _is_sound(kind, note := file.read(length + 4)):
            copy.write(head + note)
            room -= length
        else:
            num_left_out += 1
        file.seek(begin + length + 4)
        if kind == b"IEND":
            break
    if not num_left_out:
        copy.close()
        return None
    copy.seek(0)
    return copy


def _is_sound(kind: bytes, note: bytes) -> bool:
    """Whether a note, which ends in its checksum, can be read and is not compressed."""
    content, checksum = note[:-4], note[-4:]
    is_packed = kind == b"iTXt" and content.partition(b"\0")[2][:1] != b"\0"
    return not is_packed and zlib.crc32(kind + content).to_bytes(4, "big") == checksum


def _copy(source: BinaryIO, target: BinaryIO, num_bytes: int) -> None:
    """Copy so many bytes, or as many as there are."""
    while num_bytes > 0 and (piece := source.read(min(num_bytes, PIECE))):
        target.write(piece)
        num_bytes -= len(piece)
