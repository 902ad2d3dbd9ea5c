"""Photos, and shards of them."""

from __future__ import annotations

import io
import tarfile

from captioner.data import ImageError, open_image

NUM_IMAGES = 40


def jpeg(draw, seed=0):
    file = io.BytesIO()
    draw(seed).save(file, "JPEG")
    return file.getvalue()


def pack(path, files):
    """A tar of (name, content)."""
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def _error(image):
    try:
        open_image(image)
    except ImageError as error:
        return str(error)
    return None
