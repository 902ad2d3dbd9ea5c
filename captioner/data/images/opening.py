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
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from captioner.types import ImageError, PackedImage

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

ImageSource = str | Path | PackedImage | bytes | Image.Image | np.ndarray
"""What `open_image` takes: a path, an image in a shard, an encoded file's bytes, a Pillow image or an array."""

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
        source: a path; an image in a shard; the bytes of an image file; a Pillow image (left as it is); or an array
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or float from 0 to 1.

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
            return _upright(_array_name(source), _from_array(source), side)
        if isinstance(source, Image.Image):
            path = source.filename if isinstance(source, ImageFile.ImageFile) else ""
            return _upright(str(path or "Pillow image"), source, side)
        if isinstance(source, bytes):
            return _decode("bytes", io.BytesIO(source), len(source), side)
        if isinstance(source, PackedImage):
            data = source.read_bytes()
            return _decode(str(source), io.BytesIO(data), len(data), side)
        if isinstance(source, str | Path):
            return _open_file(str(source), side)
    raise TypeError(f"cannot open {type(source).__name__} as an image: give a path, bytes, a Pillow image or an array")


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
    try:
        image = Image.open(file, formats=FORMATS)
        size = image.size
        if side is not None:
            image.draft(None, (side, side))  # in all formats but JPEG this does nothing
    except Image.DecompressionBombError as error:
        raise ImageError(name, _TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ImageError(name, _UNKNOWN) from error
    except Exception as error:  # a plugin stumbled over a damaged header
        raise ImageError(name, _damage(error)) from error
    with image:
        return _upright(name, image, side, None if image.size == size else size)


def _upright(name: str, image: Image.Image, side: int | None, size: tuple[int, int] | None = None) -> Photo:
    """A new, upright RGB picture of an open image, which has perhaps not been decoded yet.

    Args:
        name: for errors.
        image: the image, which is left as it is.
        side: see `open_photo`.
        size: of the image, where its decoder was told to make it smaller already.
    """
    width, height = size or image.size
    if width * height == 0:
        raise ImageError(name, "has no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(name, _TOO_LARGE)
    try:
        image.load()  # first: TIFF turns itself upright here, and PNG's EXIF may lie behind its pixels
        orientation = _orientation(image)
        rgb = _to_rgb(image)
        width, height = size or image.size
        factor = _reduction(min(width, height), side)
        if size is None and factor > 1:
            rgb = rgb.reduce(factor)
        filled = (width / factor, height / factor)
        if orientation in _TURNS:
            rgb = rgb.transpose(_TURNS[orientation])
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_grey_8_bit(image))
    elif image.has_transparency_data:
        if image.mode == "La":  # Pillow has no direct way
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _grey_8_bit(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 from a grey image of 16 bits, 32 bits or floats, whose `convert("RGB")` clips to white.

    A sample of 16 bits is divided by 256. Modes I and F do not say where white lies (but for PNG and PPM,
    where it is 65535): it is the least of 1 (floats only), 255 and 65535 that no sample exceeds, else the
    brightest sample.
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return (values >> 8).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0).clip(min=0)
    peak = values.max()
    is_16_bit = image.format in ("PNG", "PPM") and image.mode == "I"
    if peak <= 1 and image.mode == "F":
        values = values * 255
    elif is_16_bit or 255 < peak <= 65535:
        values = np.floor(values / 256)
    elif peak > 65535:
        values = values * (255 / peak)
    return values.round().clip(max=255).astype(np.uint8)


def _array_name(array: np.ndarray) -> str:
    return f"array {array.shape} {array.dtype}"


def _from_array(array: np.ndarray) -> Image.Image:
    name = _array_name(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError(name, "the shape must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.size == 0:
        raise ImageError(name, "has no pixels")
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            raise ImageError(name, "floats must lie between 0 and 1; give values from 0 to 255 as uint8")
        array = (array.astype(np.float64) * 255).round()
    elif array.dtype != np.uint8:
        raise ImageError(name, "the type must be uint8, uint16, bool or float from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))


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
