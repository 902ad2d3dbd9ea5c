"""The bytes of an image that is no file on this disk: at a URL, or in an open file."""

from __future__ import annotations

import threading
from typing import Any, BinaryIO, Protocol, runtime_checkable

from captioner.types import ImageError

MAX_BYTES = 1 << 28
"""Files of more bytes are no images, and are not read; a file on this disk may be larger, as it is never read whole."""

CONNECT_SECONDS = 15.0  # for a web server to be reached
SILENT_SECONDS = 30.0  # without a byte from a web server
TOTAL_SECONDS = 300.0  # for a photo from a web server
IN_ONE_REQUEST = {"block_size": 0, "size": 1}  # fsspec's words for: by no ranges, and without asking for the size first
PIECE = 1 << 20  # bytes that are read at a time

_in_turn = threading.Lock()  # one open file may be given several times at once


@runtime_checkable
class ReadableFile(Protocol):
    """A file that is open for reading bytes: of `open(path, "rb")`, `io.BytesIO`, a zip file, an upload, ..."""

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes, or fewer where it ends."""
        ...


def is_remote(place: str) -> bool:
    """Whether it is a URL, for fsspec to open."""
    return "://" in place


def read_file(file: ReadableFile) -> bytes:
    """All bytes of an open file: from its beginning where it can be rewound, and left where it was.

    Raises:
        ImageError: it cannot be read, is open as text, or has more than `MAX_BYTES`.
    """
    name = file_name(file)
    with _in_turn:
        try:
            place = file.tell() if _can_seek(file) else None  # type: ignore[attr-defined]
            if place is not None:
                file.seek(0)  # type: ignore[attr-defined]
            try:
                return _all_of(file, name)
            finally:
                if place is not None:
                    file.seek(place)  # type: ignore[attr-defined]
        except ImageError:
            raise
        except Exception as error:  # a closed file, or whatever else it is made of
            raise ImageError(name, f"cannot be read ({_in_a_line(error)})") from error


def file_name(file: ReadableFile) -> str:
    """What an open file is called in errors."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name else type(file).__name__


def read_url(url: str) -> bytes:
    """All bytes at a URL that fsspec opens (https, s3, gs, file, memory, ...).

    Raises:
        ImageError: it cannot be reached, or has more than `MAX_BYTES`.
    """
    try:
        from fsspec.core import url_to_fs

        web = url.startswith(("http://", "https://"))
        system, path = url_to_fs(url, **(_web_options() if web else {}))
        with system.open(path, "rb", **(IN_ONE_REQUEST if web else {})) as file:
            return _all_of(file, url)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(url, "there is no such file") from error
    except TimeoutError as error:
        raise ImageError(url, "the server does not answer, or too slowly") from error
    except ImportError as error:
        raise ImageError(url, f"cannot be read without another package ({_in_a_line(error)})") from error
    except Exception as error:  # each kind of storage has errors of its own
        raise ImageError(url, f"cannot be read ({_in_a_line(error)})") from error


def _web_options() -> dict[str, Any]:
    from aiohttp import ClientTimeout

    limits = ClientTimeout(total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    return {"client_kwargs": {"timeout": limits}}


def _all_of(file: ReadableFile | BinaryIO, name: str) -> bytes:
    pieces, num_bytes = [], 0
    while piece := file.read(PIECE):
        if not isinstance(piece, bytes):
            raise ImageError(name, "is open as text: open it with open(path, 'rb')")
        num_bytes += len(piece)
        if num_bytes > MAX_BYTES:
            raise ImageError(name, f"has more than {MAX_BYTES:,} bytes: too large for an image")
        pieces.append(piece)
    return b"".join(pieces)


def _can_seek(file: ReadableFile) -> bool:
    return hasattr(file, "seekable") and bool(file.seekable())


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
