"""What lies in a tar file: its regular files, one after another; a tar without an end is damaged."""

from __future__ import annotations

import io
import tarfile

import pytest

from captioner.data.shards.tar import files_of, is_image, opened, reason_of


def tar_of(members: list[tuple[str, bytes, bytes]]) -> bytes:
    """A tar of (name, type, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


MEMBERS = [
    ("a/1.jpg", tarfile.REGTYPE, b"one"),
    ("a", tarfile.DIRTYPE, b""),
    ("link.jpg", tarfile.SYMTYPE, b""),
    ("a/.hidden.jpg", tarfile.REGTYPE, b"hidden"),
    ("a/2.txt", tarfile.REGTYPE, b"two"),
]


def test_regular_files_come_with_their_places():
    data = tar_of(MEMBERS)
    found = [(member.name, member.offset_data, content.read()) for member, content in files_of(io.BytesIO(data))]
    assert [(name, content) for name, _, content in found] == [("a/1.jpg", b"one"), ("a/2.txt", b"two")]
    assert all(data[offset : offset + len(content)] == content for _, offset, content in found)


@pytest.mark.parametrize("kept", [1024, 700])
def test_a_tar_that_was_cut_is_damaged(kept):
    with pytest.raises(tarfile.TarError):
        [content.read() for _, content in files_of(io.BytesIO(tar_of(MEMBERS[:1] * 2)[:kept]))]


def test_compressed_tars_are_opened_unpacked(tmp_path):
    import gzip

    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(MEMBERS)))
    (tmp_path / "a.tar").write_bytes(tar_of(MEMBERS))
    for name in ("a.tar.gz", "a.tar"):
        with opened(str(tmp_path / name)) as file:
            assert len(list(files_of(file))) == 2


def test_names_say_what_is_an_image():
    assert [is_image(name) for name in ("a/b.JPG", "b.png", "b.txt", "jpg", "b.mask.png")] == [True] * 2 + [
        False
    ] * 2 + [True]


def test_reasons_are_one_line():
    assert reason_of(FileNotFoundError(2, "no")) == "no such file"
    assert reason_of(PermissionError(13, "Permission denied")) == "Permission denied"
    assert reason_of(tarfile.ReadError("unexpected\nend")) == "damaged or cut short (unexpected end)"
    assert reason_of(ValueError()) == "ValueError"
