"""The one way to open an image, for the whole project.

Whatever a photo is stored as, `open_image` gives the same thing: an upright RGB image with its pixels loaded,
or an `ImageError` that says in one line which image could not be read and why. `open_photo` does the same for those who
need only so many of the pixels: a JPEG is then decoded at a half, a quarter or an eighth of its size.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from captioner.data.images.budget import Budget, hand_back
from captioner.data.images.kinds import AVIF, EXR, HEAD, HEIC, JXL, RADIANCE, RAW, RAW_SUFFIXES, kind_of, suffix_of
from captioner.data.images.png import without_long_notes
from captioner.data.images.reading import ReadableFile, file_name, is_remote, read_file, read_url
from captioner.data.images.rgb import array_name, from_array, stored_bytes, to_rgb
from captioner.types import ImageError, PackedImage

try:
    from pillow_heif import register_heif_opener
except ImportError:  # an extra
    register_heif_opener = None

MAX_PIXELS = 178_000_000
"""Images of more pixels are refused before they are decoded. Pillow itself refuses above 2 * 89,478,485."""

REFUSED_FORMATS = {
    "EPS": "it is a program, which Pillow hands to Ghostscript",
    "IPTC": "it wraps a file of any other format, those refused here included",
    "WMF": "Pillow leaves it to the drawing functions of Windows",
    "BUFR": "Pillow knows its signature only",
    "GRIB": "Pillow knows its signature only",
    "HDF5": "Pillow knows its signature only",
    "MPEG": "Pillow knows its signature only",
}
"""Formats in Pillow's registry that are never opened, each with the reason."""


MAX_DECODED = 1 << 30
"""Bytes that the images have in memory which all threads of a process decode at a time. An image that takes more is
decoded while no other is."""

LARGE = 1 << 27
"""Bytes of an image whose memory is handed back to the system before another one is decoded; it takes milliseconds."""

DECODER_BYTES = {
    "WEBP": 13,
    "JPEG2000": 17,
    "AVIF": 7,
    "HEIF": 7,
    **dict.fromkeys(("PNG", "JPEG", "GIF", "BMP", "PPM", "TGA"), 0),
}
"""What a format's decoder takes for a pixel beside the image itself, as measured; 4 where nothing is said."""

PROGRESSIVE_BYTES = 6
"""The same for a progressive JPEG, which is held as a whole whatever is made of it."""

MAX_PACKED = 1 << 29
"""Bytes of image files from shards that are in memory at a time while they are decoded, of all threads of a process."""

if register_heif_opener is not None:
    register_heif_opener()
Image.init()  # loads every plugin, so that the registry is complete


FORMATS = tuple(name for name in Image.ID if name not in REFUSED_FORMATS)
"""Formats that are opened: all that Pillow knows but the refused ones. A plugin from another package
(pillow-heif, say) counts when it is registered before this module is imported."""

IMAGE_SUFFIXES = frozenset(
    suffix.lower()
    for suffix, name in Image.registered_extensions().items()
    if name in FORMATS or name == "MPO"  # a JPEG with a second picture behind it: the JPEG plugin opens it
)
"""Suffixes of the formats that are opened, lower case, with their dot."""

ImageSource = str | os.PathLike | PackedImage | bytes | bytearray | memoryview | ReadableFile | Image.Image | np.ndarray
"""What `open_image` takes: a path or URL, an image in a shard, an encoded file's bytes, an open file, a Pillow image or
an array."""

_TURNS = {  # EXIF's orientation tag -> what sets the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TOO_LARGE = "has more pixels than are allowed (a decompression bomb?)"
_UNKNOWN = "not an image, or damaged, or in a format that is not read here"
_UNREAD = {  # kinds of images that Pillow may not read: its format, what to do
    HEIC: ("HEIF", "pip install 'captioner[heif]' to read it"),
    AVIF: ("AVIF", "pip install --upgrade pillow to read it"),
    JXL: ("JXL", "convert it to JPEG or PNG"),
    RAW: ("", "convert it to JPEG or TIFF"),
    EXR: ("", "convert it to PNG or TIFF"),
    RADIANCE: ("", "convert it to PNG or TIFF"),
}
_DNG_VERSION, _SUBFILE_TYPE, _REDUCED = 50706, 254, 1  # TIFF's tags, and the flag of a smaller copy of the picture


class Photo(NamedTuple):
    """A photo that was opened for a purpose.

    Attributes:
        pixels: the upright photo in RGB, or a smaller picture of it.
        size: (width, height) of the upright photo itself.
        box: (x0, y0, x1, y1) what of `pixels` it fills: all, but for a part of a pixel at the edge where the photo's
            sides are no multiples of how much smaller the picture is.
    """

    pixels: Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def open_image(source: ImageSource) -> Image.Image:
    """Open an image of any kind: upright, RGB, with all its pixels loaded.

    EXIF rotation is applied, the first frame of an animation and the first page of a file are taken,
    transparency is laid on white, and grey of 16 bits is scaled to 8 (not clipped to white). Files are
    closed, Pillow's warnings are not shown, and any number of threads may call this at once. The result is a
    new image of the photo's full size: its `size` is the upright photo's, and opening it again changes
    nothing.

    Args:
        source: a path; a URL that fsspec opens (https, s3, gs, file, ...); an image in a shard; the bytes of an image
            file (bytes, bytearray, memoryview); a file that is open for reading bytes, which is read from its beginning
            and left where it was; a Pillow image (left as it is); or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
            of uint8, uint16, bool, or float from 0 to 1.

    Raises:
        ImageError: the image cannot be read: no such file, no permission, empty, not an image, damaged, too
            large (`MAX_PIXELS`), or an array of another shape or type.
        TypeError: `source` is none of the above.
    """
    return open_photo(source).pixels


def open_photo(source: ImageSource, side: int | None = None) -> Photo:
    """Open an image as `open_image` does, with no more of its pixels than are needed.

    A large photo comes at a half, a quarter or an eighth of its size, such that its sides are no shorter than
    asked for. The decoder of a JPEG makes no more than that (it leaves out high frequencies); of other files pixels
    are averaged. Where twice the sides are kept of what the photo is then resampled to, this changes the result by half
    a grey level (of 255) or less on average.

    Args:
        source: as for `open_image`.
        side: pixels that each side must keep, where the photo has them; None keeps all.

    Raises:
        ImageError, TypeError: as `open_image`.
    """
    with _pillow_warnings_hidden:
        if isinstance(source, np.ndarray):
            return _upright(array_name(source), from_array(source), side)
        if isinstance(source, Image.Image):
            path = source.filename if isinstance(source, ImageFile.ImageFile) else ""
            return _upright(str(path or "Pillow image"), source, side)
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
            return _decode(type(source).__name__, io.BytesIO(data), len(data), side)
        if isinstance(source, PackedImage):
            with _packed.hold(source.num_bytes):
                data = source.read_bytes()
                return _decode(str(source), io.BytesIO(data), len(data), side)
        if isinstance(source, str | os.PathLike):
            return _open_place(os.fsdecode(source), side)
        if isinstance(source, ReadableFile):
            data = read_file(source)
            return _decode(file_name(source), io.BytesIO(data), len(data), side)
    raise TypeError(
        f"cannot open {type(source).__name__} as an image: give a path, a URL, bytes, an open file, a Pillow image or "
        "an array"
    )


def unread(name: str, head: bytes) -> str | None:
    """Why an image is not read here, and what to do, as far as its first bytes tell; None for all that may be.

    Args:
        name: of its file.
        head: its first `HEAD` bytes.
    """
    kind = kind_of(head)
    if kind not in _UNREAD or _UNREAD[kind][0] in FORMATS:
        return None
    return _advice(kind)


def _advice(kind: str) -> str:
    return f"is {kind}, which is not read here: {_UNREAD[kind][1]}"


def _open_place(name: str, side: int | None) -> Photo:
    if is_remote(name) and not os.path.exists(name):
        data = read_url(name)
        return _decode(name, io.BytesIO(data), len(data), side)
    return _open_file(name, side)


def _open_file(name: str, side: int | None) -> Photo:
    try:
        status = os.stat(name)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(name, "is a folder, not an image")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ImageError(name, "is not a regular file")
        with open(name, "rb") as file:
            return _decode(name, file, status.st_size, side)
    except OSError as error:
        raise ImageError(name, os_reason(error)) from error
    except ImageError:
        raise
    except ValueError as error:  # a NUL character, or one that the file system cannot write
        raise ImageError(name, "is not a valid path") from error


def os_reason(error: OSError) -> str:
    """Why a file cannot be read, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return error.strerror or type(error).__name__


def _decode(name: str, file: BinaryIO, num_bytes: int, side: int | None) -> Photo:
    if num_bytes == 0:
        raise ImageError(name, "the file is empty")
    head = file.read(HEAD)
    try:
        return _decode_as_it_is(name, file, head, side)
    except ImageError as error:
        if kind_of(head) != "PNG" or error.reason == _TOO_LARGE:
            raise
        copy = without_long_notes(file)
        if copy is None:
            raise
        with copy:
            try:
                return _decode_as_it_is(name, copy, head, side)
            except ImageError:
                raise error from None


def _decode_as_it_is(name: str, file: BinaryIO, head: bytes, side: int | None) -> Photo:
    if (reason := unread(name, head)) is not None:
        raise ImageError(name, reason)
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
        size = image.size
        if side is not None:
            image.draft(None, (side, side))  # in all formats but JPEG this does nothing
        is_preview = _is_preview(name, image)
    except Image.DecompressionBombError as error:
        raise ImageError(name, _TOO_LARGE) from error
    except UnidentifiedImageError as error:
        is_raw = suffix_of(name) in RAW_SUFFIXES and kind_of(head) == "TIFF"
        raise ImageError(name, _advice(RAW) if is_raw else _UNKNOWN) from error
    except Exception as error:  # a plugin stumbled over a damaged header
        raise ImageError(name, _damage(error)) from error
    with image:
        if is_preview:
            raise ImageError(name, _advice(RAW))
        return _upright(name, image, side, None if image.size == size else size, is_ours=True)


def _is_preview(name: str, image: Image.Image) -> bool:
    """Whether an open image is the small picture at the beginning of a camera's raw photo."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    is_smaller = bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED)
    return is_smaller and (_DNG_VERSION in tags or suffix_of(name) in RAW_SUFFIXES)


def _upright(
    name: str, image: Image.Image, side: int | None, size: tuple[int, int] | None = None, is_ours: bool = False
) -> Photo:
    """A new, upright RGB picture of an open image, which has perhaps not been decoded yet.

    Args:
        name: for errors.
        image: the image.
        side: see `open_photo`.
        size: of the image, where its decoder was told to make it smaller already.
        is_ours: whether its memory is freed, while that is still counted; else it is left as it is.
    """
    width, height = size or image.size
    if width * height == 0:
        raise ImageError(name, "has no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(name, _TOO_LARGE)
    factor = _reduction(min(width, height), side)
    try:
        num_bytes = _bytes_of(image, width * height, factor)
        with _decoded.hold(num_bytes):
            image.load()  # first: TIFF turns itself upright here, and PNG's EXIF may lie behind its pixels
            orientation = _orientation(image)
            width, height = size or image.size
            rgb = to_rgb(image, factor if size is None else 1)
            if is_ours:
                image.close()
                if num_bytes > LARGE:
                    hand_back()
            if orientation in _TURNS:
                rgb = rgb.transpose(_TURNS[orientation])
        filled = (width / factor, height / factor)
    except Image.DecompressionBombError as error:  # a file within the file
        raise ImageError(name, _TOO_LARGE) from error
    except Exception as error:  # Pillow's plugins raise nearly every type over damaged files
        raise ImageError(name, _damage(error)) from error
    rgb.info = {}  # its EXIF would turn the upright image once more
    if orientation in (5, 6, 7, 8):
        width, height, filled = height, width, filled[::-1]
    left = rgb.width - filled[0] if orientation in (2, 3, 6, 7) else 0.0  # what is not filled was right and below
    top = rgb.height - filled[1] if orientation in (3, 4, 7, 8) else 0.0
    return Photo(rgb, (width, height), (left, top, left + filled[0], top + filled[1]))


def _bytes_of(image: Image.Image, num_pixels: int, factor: int) -> int:
    """The memory that it takes to decode an image, beside what is there, and to make an RGB picture of it, about.

    Args:
        image: an open image.
        num_pixels: of the file, of which the image may be a smaller picture.
        factor: by which the sides of the picture are divided.
    """
    num_bytes = 2 * 4 * num_pixels // factor**2  # RGB, and once more where it is turned
    if isinstance(image, ImageFile.ImageFile):
        num_bytes += image.width * image.height * stored_bytes(image.mode)
        if image.format == "JPEG" and image.info.get("progressive"):
            num_bytes += num_pixels * PROGRESSIVE_BYTES
        else:
            num_bytes += num_pixels * DECODER_BYTES.get(image.format or "", 4)
    return num_bytes


def _reduction(shorter: int, side: int | None) -> int:
    """By how much the shorter side of a photo may be divided, if `side` pixels are to be left of it."""
    return 1 if side is None else next((factor for factor in (8, 4, 2) if shorter >= factor * side), 1)


def _damage(error: Exception) -> str:
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or cut short ({detail})"


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken EXIF does not make the pixels unreadable
        return None


class _HiddenWarnings:
    """Hides Pillow's own warnings for as long as any thread is inside.

    `warnings.catch_warnings` alone is not enough: it swaps global state, and two threads that leave in
    another order than they came would put back the wrong one. So the first thread in hides, and the last one
    out puts back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.num_inside = 0
        self.catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if self.num_inside == 0:
                self.catcher = warnings.catch_warnings()
                self.catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.num_inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.num_inside -= 1
            if self.num_inside == 0:
                self.catcher.__exit__(None, None, None)


_pillow_warnings_hidden = _HiddenWarnings()
_decoded = Budget(MAX_DECODED)
_packed = Budget(MAX_PACKED)
