"""Images at URLs and in open files: read once, within bounds of bytes and of time; what goes wrong is one line."""

from __future__ import annotations

import io
import tempfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from image_cases import difference, encoded, photo

from captioner.data.images import open_image, reading
from captioner.data.images.reading import ReadableFile, file_name, is_remote, read_file, read_url
from captioner.types import ImageError

PNG = encoded(photo(), "PNG")


def open_files(folder):
    """Files open for reading, of many kinds."""
    path = folder / "a.png"
    path.write_bytes(PNG)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(path, "b.png")
    written = io.BytesIO()
    written.write(PNG)  # stands at its end
    with open(path, "rb") as file, open(path, "rb", buffering=0) as raw, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(PNG)
        yield from (file, raw, io.BytesIO(PNG), written, spooled)
    with zipfile.ZipFile(folder / "a.zip") as archive, archive.open("b.png") as packed:
        yield packed
    with fsspec.open(str(path), "rb") as file:
        yield file


def test_open_files_are_read_from_their_beginning(tmp_path):
    for file in open_files(tmp_path):
        place = file.tell()
        assert isinstance(file, ReadableFile)
        assert read_file(file) == PNG
        assert file.tell() == place
        assert difference(open_image(file), photo()) == 0


class Pipe:
    """What cannot be rewound, and gives little at a time."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    def read(self, size=-1):
        return self.file.read(min(size, 100))


def test_what_cannot_be_rewound_is_read_on(tmp_path):
    assert read_file(Pipe(PNG)) == PNG


def test_what_is_no_open_file_of_bytes_says_so(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("text")
    closed = open(path, "rb")  # noqa: SIM115
    closed.close()
    with (
        open(path) as text,
        pytest.raises(ImageError, match=r"a\.txt: is open as text: open it with open\(path, 'rb'\)"),
    ):
        open_image(text)
    with pytest.raises(ImageError, match=r"a\.txt: cannot be read \(.*closed file"):
        open_image(closed)
    with pytest.raises(ImageError, match="BytesIO: the file is empty"):
        open_image(io.BytesIO())
    assert file_name(io.BytesIO()) == "BytesIO"


def test_no_more_is_read_than_an_image_may_have(monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 1000)
    monkeypatch.setattr(reading, "PIECE", 300)
    endless = Pipe(b"")
    endless.read = lambda size=-1: b"x" * size
    with pytest.raises(ImageError, match="Pipe: has more than 1,000 bytes: too large for an image"):
        read_file(endless)


class Handler(BaseHTTPRequestHandler):
    """A photo, a photo of which nothing is known before, an endless answer, a server that says nothing."""

    def do_GET(self):
        if self.path == "/slow.png":
            self.server.stop.wait(20)
            return
        self.send_response(200 if "none" not in self.path else 404)
        if self.path.startswith("/photo.png"):
            self.send_header("Content-Length", str(len(PNG)))
        self.end_headers()
        content = b"x" * 100_000 if "endless" in self.path else PNG
        try:
            while not self.server.stop.is_set():
                self.wfile.write(content)
                if "endless" not in self.path:
                    break
        except OSError:
            pass  # who asked has left
        self.server.served.append(self.path)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.stop, server.served = threading.Event(), []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join(20)


def test_photos_come_from_a_web_server_in_one_request(server):
    server.served.clear()
    for name in ("photo.png", "photo.png?size=large#top", "unknown-length.png"):
        assert difference(open_image(f"{server.url}/{name}"), photo()) == 0
    assert len(server.served) == 3


def test_a_web_server_that_fails_is_one_line(server, monkeypatch):
    with pytest.raises(ImageError, match=r"none\.png: there is no such file"):
        open_image(f"{server.url}/none.png")
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="more than 1,048,576 bytes"):
        open_image(f"{server.url}/endless.png")
    monkeypatch.setattr(reading, "SILENT_SECONDS", 0.2)
    begin = time.monotonic()
    with pytest.raises(ImageError, match="does not answer, or too slowly"):
        open_image(f"{server.url}/slow.png")
    assert time.monotonic() - begin < 10
    with pytest.raises(ImageError) as caught:
        open_image("http://127.0.0.1:9/a.png")  # nobody listens
    assert "\n" not in str(caught.value)


def test_other_places(tmp_path):
    (tmp_path / "ü 1.png").write_bytes(PNG)
    with fsspec.open("memory://photos/a.png", "wb") as file:
        file.write(PNG)
    for url in ("memory://photos/a.png", f"file://{tmp_path}/ü 1.png"):
        assert is_remote(url)
        assert read_url(url) == PNG
    for url in ("memory://photos/b.png", f"file://{tmp_path}/b.png"):
        with pytest.raises(ImageError, match=r"b\.png: there is no such file"):
            open_image(url)
    with pytest.raises(ImageError, match="nothing://a.png: cannot be read"):
        open_image("nothing://a.png")
