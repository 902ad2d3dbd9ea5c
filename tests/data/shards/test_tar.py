"""What lies in a tar file: its regular files, one after another; a tar without an end is damaged."""

from __future__ import annotations

import io
import tarfile

import pytest

from captioner.data.shards.tar import MAX_HEADER, files_of, head_of, opened, reason_of


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


def test_the_head_of_a_file_is_read_beside_it():
    ((_, content),) = files_of(io.BytesIO(tar_of([("a.jpg", tarfile.REGTYPE, b"0123456789" * 10)])))
    assert head_of(content) == (b"0123456789" * 10)[:64]


def test_names_may_be_long():
    names = ["a/" * 100 + "1.jpg", "ü" * 300 + ".jpg", "b/" * 5000 + "2.jpg"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        file.seek(0)
        assert [member.name for member, _ in files_of(file)] == names


def long_header(kind: bytes, size: int) -> bytes:
    header = tarfile.TarInfo("PaxHeaders/1.jpg")
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT)


class Endless(io.BytesIO):
    """A file that goes on with zeros, and notes down how much was read at once."""

    most = 0

    def read(self, size=-1):
        Endless.most = max(Endless.most, size)
        return super().read(size).ljust(min(size, 1 << 22), b"\0")


@pytest.mark.parametrize("size", [MAX_HEADER + 1, 4 << 30, 1 << 50])
@pytest.mark.parametrize(
    "kind",
    [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK],
)
def test_a_header_that_is_too_long_is_not_read(kind, size):
    before = tar_of(MEMBERS[:1])[:1024]
    Endless.most = 0
    files = files_of(Endless(before + long_header(kind, size)))
    assert next(files)[0].name == "a/1.jpg"
    with pytest.raises(tarfile.ReadError, match=rf"'PaxHeaders/1.jpg' at byte 1,024 has {size:,} bytes, and headers"):
        next(files)
    assert Endless.most <= 10_240


def pax(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    return tarfile.TarInfo._create_pax_generic_header(records, kind, "utf-8")


def test_headers_that_are_too_long_together_are_not_read():
    one = pax({"comment": "x" * (MAX_HEADER // 3)})
    with pytest.raises(tarfile.ReadError, match="headers of more than"):
        list(files_of(io.BytesIO(one * 4 + tar_of(MEMBERS))))
    kept = [pax({f"key{number}": "x" * (MAX_HEADER // 3)}, tarfile.XGLTYPE) for number in range(4)]
    with pytest.raises(tarfile.ReadError, match="headers of more than"):
        list(files_of(io.BytesIO(b"".join(header + tar_of(MEMBERS[:1])[:1024] for header in kept))))


def test_a_file_of_a_negative_size_is_damage():
    member = tarfile.TarInfo("a.jpg")
    member.size = 0
    data = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = b"\xff" * 11 + b"\0"  # -256
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    for content in (bytes(data), pax({"size": "-5120"}) + tar_of(MEMBERS[:1])):
        with pytest.raises(tarfile.TarError):
            list(files_of(io.BytesIO(content + bytes(10_240))))


def test_files_with_holes_are_passed_over():
    """Whatever their maps say."""
    old = bytearray(tarfile.TarInfo("holes.jpg").tobuf(tarfile.GNU_FORMAT))
    old[156:157] = tarfile.GNUTYPE_SPARSE
    old[482] = 1  # the map goes on
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + sum(old[156:512]) + 8 * 32)
    block = bytearray(512)
    block[504] = 1
    maps = bytes(block) * 50 + bytes(512)
    files = list(files_of(io.BytesIO(bytes(old) + maps + tar_of(MEMBERS[:1]))))
    assert [member.name for member, _ in files] == ["a/1.jpg"]
    new = pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9999999"})
    holes = tar_of([("holes.jpg", tarfile.REGTYPE, b"99999999\n" + b"0\n" * 1000)])[:2560]
    files = list(files_of(io.BytesIO(new + holes + tar_of(MEMBERS[:1]))))
    assert [member.name for member, _ in files] == ["a/1.jpg"]


def test_reasons_are_one_line():
    assert reason_of(FileNotFoundError(2, "no")) == "no such file"
    assert reason_of(PermissionError(13, "Permission denied")) == "Permission denied"
    assert reason_of(tarfile.ReadError("unexpected\nend")) == "damaged or cut short (unexpected end)"
    assert reason_of(ValueError()) == "ValueError"
