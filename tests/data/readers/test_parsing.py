"""What readers share: captions without white space, names of files, the folder of the images."""

from __future__ import annotations

import pytest

from captioner.data.readers.parsing import cleaned, file_name, folder_holding


def test_captions_lose_their_outer_space_and_empty_ones_are_left_out():
    assert cleaned(["  a dog \n", "", " \t", "a  cat"]) == ("a dog", "a  cat")


def test_the_folder_that_holds_a_file(tmp_path):
    for folder in ("b", "a", ".hidden"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").touch()
    (tmp_path / "0.jpg").touch()
    assert folder_holding(tmp_path, ["0.jpg"]) == tmp_path
    assert folder_holding(tmp_path, ["1.jpg"]) == tmp_path / "a"
    assert folder_holding(tmp_path, ["2.jpg"]) is None
    assert folder_holding(tmp_path, ["2.jpg", "1.jpg", "0.jpg"]) == tmp_path / "a"  # the first that is there


def test_names_of_files():
    assert file_name({"file_name": "a.jpg"}, "file_name", "here") == "a.jpg"
    for entry in ({}, [], {"file_name": 3}, {"file_name": None}, {"file_name": ["a.jpg"]}, {"file_name": " "}):
        with pytest.raises(ValueError, match="here: .*file_name"):
            file_name(entry, "file_name", "here")
    with pytest.raises(ValueError, match=r"here: \"file_name\" is 'a\\x00.jpg'; the name of a file is expected"):
        file_name({"file_name": "a\0.jpg"}, "file_name", "here")
