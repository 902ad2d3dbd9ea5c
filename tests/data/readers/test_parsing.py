"""What readers share: files are read in one way, and errors name them."""

from __future__ import annotations

import pytest

from captioner.data.readers.parsing import cleaned, expecting, folder_holding, load_json, numbered_lines


def test_captions_lose_their_outer_space_and_empty_ones_are_left_out():
    assert cleaned(["  a dog \n", "", " \t", "a  cat"]) == ("a dog", "a  cat")


def test_lines_have_their_numbers_blank_ones_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\r\n\n  \nsecond")
    path = tmp_path / "a.txt"
    assert list(numbered_lines(path)) == [(f"{path}, line 1", "first"), (f"{path}, line 4", "second")]


def test_bytes_that_are_no_text_and_text_that_is_no_json(tmp_path):
    (tmp_path / "a.json").write_bytes(b"{\xff}")
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8 text .* at byte 1"):
        load_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: malformed JSON"):
        load_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("stumble", "message"), [(lambda: {}["images"], "an entry lacks 'images'"), (lambda: [][0], "")]
)
def test_a_file_of_another_form_is_named(stumble, message, tmp_path):
    with (
        pytest.raises(ValueError, match=rf"a\.json: not in COCO's format: .*{message}"),
        expecting("COCO's format", tmp_path / "a.json"),
    ):
        stumble()


def test_the_folder_that_holds_a_file(tmp_path):
    for folder in ("b", "a", ".hidden"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").touch()
    (tmp_path / "0.jpg").touch()
    assert folder_holding(tmp_path, "0.jpg") == tmp_path
    assert folder_holding(tmp_path, "1.jpg") == tmp_path / "a"
    assert folder_holding(tmp_path, "2.jpg") is None
