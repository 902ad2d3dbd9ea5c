"""Finding images: files, folders and patterns."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from captioner.data.images import IMAGE_SUFFIXES, find_images, is_image
from captioner.data.images.opening import FORMATS


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """Nothing that Pillow warns of may leak."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_suffixes():
    assert {
        ".jpg",
        ".jpeg",
        ".png",
        ".gif",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".tga",
        ".mpo",
    } <= IMAGE_SUFFIXES
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf"} & IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
    assert "EPS" not in FORMATS
    assert "JPEG" in FORMATS


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of files (their bytes are not looked at), in which the test runs."""
    monkeypatch.chdir(tmp_path)
    names = ["b.JPG", "a.png", "a[1].jpg", "notes.txt", "ü ß.webp", ".hidden.jpg", "noext"]
    deep = ["sub/c.Tiff", "sub/deep/d.gif", "sub/notes.md", ".cache/e.jpg", "empty/readme", "sub/deep/b.jpg"]
    for name in names + deep:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def relative(*names: str) -> list[str]:
    return [f"photos/{name}" for name in names]


ALL = relative("a.png", "a[1].jpg", "b.JPG", "sub/c.Tiff", "sub/deep/b.jpg", "sub/deep/d.gif", "ü ß.webp")


def test_a_folder_is_searched(folder):
    assert find_images(["photos"]) == (ALL, [])
    assert find_images([folder / "photos"]) == ([f"{folder}/{name}" for name in ALL], [])
    assert find_images(["photos/"]) == (ALL, [])


def test_a_file_is_taken_whatever_its_suffix_or_name(folder):
    names = relative("noext", "a[1].jpg", ".hidden.jpg", "notes.txt")
    assert find_images(names) == (names, [])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["a.png"]),
        ("photos/[ab].*", ["a.png", "b.JPG"]),
        ("photos/no*", ["noext", "notes.txt"]),
        ("photos/s*", ["sub/c.Tiff", "sub/deep/b.jpg", "sub/deep/d.gif"]),
        ("photos/**/*.jpg", ["a[1].jpg", "sub/deep/b.jpg"]),
        ("photos/**/deep/*", ["sub/deep/b.jpg", "sub/deep/d.gif"]),
        ("**/d.gif", ["sub/deep/d.gif"]),
        ("**/deep/**/d*", ["sub/deep/d.gif"]),
        ("*/a*", ["a.png", "a[1].jpg"]),
    ],
)
def test_patterns(folder, pattern, expected):
    assert find_images([pattern]) == (relative(*expected), [])
    absolute = [str(folder / name) for name in relative(*expected)]
    assert find_images([str(folder / pattern)]) == (absolute, [])


def test_two_stars_alone_are_the_folder(folder):
    assert find_images(["photos/**"])[0] == [name.replace("photos", "photos/", 1).replace("//", "/") for name in ALL]


def test_order_is_kept_and_duplicates_are_dropped(folder):
    found, problems = find_images(
        ["photos/sub", "./photos/a.png", "photos", "photos/*.png", str(folder / "photos/a.png")]
    )
    first = relative("sub/c.Tiff", "sub/deep/b.jpg", "sub/deep/d.gif")
    rest = [name for name in ALL if name not in first and name != "photos/a.png"]
    assert found == [*first, "./photos/a.png", *rest]
    assert problems == []


def test_problems_name_their_path(folder):
    found, problems = find_images(["nothing.jpg", "photos/a.png", "photos/empty", "photos/*.xyz", "a\0*.jpg"])
    assert found == ["photos/a.png"]
    assert [problem.name for problem in problems] == [
        "nothing.jpg",
        "photos/empty",
        "photos/*.xyz",
        "a\0*.jpg",
    ]
    for problem, word in zip(problems, ["no such file", "no image", "matches", "valid"], strict=True):
        assert word in problem.reason


def test_loops_of_links_end(folder):
    for name in ("loop1", "loop2"):
        (folder / "photos/sub" / name).symlink_to(folder / "photos", target_is_directory=True)
    for path in ("photos", "photos/**", "photos/**/*.*"):
        found, problems = find_images([path])
        names = [os.path.basename(name) for name in found]
        assert {"a.png", "d.gif"} <= set(names)
        assert problems == []
        assert len(names) == len(set(names))


def test_linked_folders_and_dangling_links_are_found(folder):
    outside = folder / "outside"
    outside.mkdir()
    (outside / "z.png").touch()
    (folder / "photos/link").symlink_to(outside)
    (folder / "photos/zz.png").symlink_to(folder / "nothing")
    assert {"photos/link/z.png", "photos/zz.png"} <= set(find_images(["photos"])[0])


def test_a_folder_that_cannot_be_read_is_a_problem(folder, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # chmod does not stop a superuser
    found, problems = find_images(["photos"])
    assert "photos/sub/c.Tiff" in found
    assert [str(problem) for problem in problems] == ["photos/sub/deep: no permission to read it"]


def test_a_single_text_is_refused():
    with pytest.raises(TypeError, match="list of paths"):
        find_images("photos")


@pytest.fixture
def camera(tmp_path) -> Path:
    """A folder as a camera, a phone and their programs leave it."""
    heads = {
        "a.heic": b"",
        "b.HEIF": b"no image",
        "c.dng": b"II*\0\x08\0\0\0",
        "d.nef": b"",
        "e.jxl": b"",
        "f": b"\xff\xd8\xff\xe0",
        "g.jpg_original": b"\xff\xd8\xff\xe1",
        "h.unknown": b"\x89PNG\r\n\x1a\n",
        "i": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "notes": b"A few words.",
        "x.xmp": b"<?xpacket begin=''?>",
        ".DS_Store": b"\0\0\0\1Bud1",
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        "clip.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
        "clip.mov": b"\0\0\0\x14ftypqt  ",
        "empty": b"",
    }
    for name, head in heads.items():
        (tmp_path / name).write_bytes(head)
    os.mkfifo(tmp_path / "pipe")  # would be waited for
    (tmp_path / "broken link").symlink_to(tmp_path / "nothing")
    return tmp_path


CAMERAS = ["a.heic", "b.HEIF", "c.dng", "d.nef", "e.jxl", "f", "g.jpg_original", "h.unknown", "i"]


def test_photos_are_found_whatever_their_suffix_and_nothing_else(camera):
    found, problems = find_images([camera])
    assert ([Path(path).name for path in found], problems) == (CAMERAS, [])
    assert [Path(path).name for path in find_images([f"{camera}/../{camera.name}*"])[0]] == CAMERAS


def test_what_is_no_image_is_named_where_nothing_else_is_there(tmp_path):
    (tmp_path / "notes").write_bytes(b"A few words.")
    assert [problem.reason for problem in find_images([tmp_path])[1]] == ["no image in this folder"]


def test_first_bytes_are_read_where_the_suffix_says_nothing():
    asked = []

    def head():
        asked.append(1)
        return b"\xff\xd8\xff"

    assert [is_image(name, head) for name in ("a.jpg", "a.HEIC", "a.nef")] == [True] * 3
    assert not asked
    assert is_image("a.txt", head)
    assert asked


def test_urls_are_taken_as_they_are():
    urls = ["https://host/a//b.jpg?x=[1]", "s3://bucket/a.jpg", "https://host/a//b.jpg?x=[1]"]
    assert find_images(urls) == (urls[:2], [])
