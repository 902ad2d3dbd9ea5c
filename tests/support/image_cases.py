"""Photos that are known to the pixel, in any format, and files that are none."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (48, 32)  # width, height


def photo() -> Image.Image:
    """A smooth picture without symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    pixels = np.stack([40 + 200 * x, 220 - 180 * y, 30 + 150 * x * y], axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8))


def grey() -> Image.Image:
    return photo().convert("L")


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def difference(image: Image.Image, expected: Image.Image) -> float:
    """Mean absolute difference, of 0 to 255."""
    assert image.size == expected.size
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(expected.convert("RGB"), dtype=float)).mean())


def wide_png(array: np.ndarray) -> bytes:
    """A PNG of 16 bits a sample, which Pillow does not write in colour."""
    height, width = array.shape[:2]
    colour = 2 if array.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return png_of(struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0), rows)


def png_of(header: bytes, rows: bytes) -> bytes:
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def scene(width: int = 203, height: int = 131) -> Image.Image:
    """A picture with edges in it, up to its own edge."""
    small = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def seen(image: Image.Image, box: tuple[float, ...]) -> Image.Image:
    return image.resize((16, 16), Image.Resampling.BICUBIC, box=box)


def broken_files() -> dict[str, tuple[bytes, str]]:
    """For each kind of broken file its bytes, and a word of the reason."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    cut = {
        f"cut.{name.lower()}": (data[: len(data) // 2], "damaged")
        for name in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "TGA", "PPM")
        for data in [encoded(noise, name)]
    }
    bomb = png_of(struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0), b"")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    return cut | {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"not an image at all, only text", "not an image"),
        "head.png": (encoded(noise, "PNG")[:20], "damaged"),
        "bomb.png": (bomb, "more pixels"),
        "program.eps": (eps, "not an image"),
        "program.jpg": (eps, "not an image"),
    }
