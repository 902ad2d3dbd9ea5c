"""Flickr8k's own files."""

from __future__ import annotations

import pytest
from reader_cases import write_flickr8k

from captioner.data.readers import Flickr8k, find_reader
from captioner.types import CaptionedImage


def captions_of(items: list[CaptionedImage]) -> dict[int | str, tuple[str, ...]]:
    return {item.image_id: item.captions for item in items}


def test_flickr8k(tmp_path):
    reader = Flickr8k(write_flickr8k(tmp_path))
    assert reader.splits == ("train", "dev")
    assert list(captions_of(reader.read("train")).items()) == [
        ("2_b.jpg", ("A cat\twith a tab",)),
        ("1_a.jpg", ("A dog .", "The dog runs .")),
    ]
    assert reader.read("dev") == [CaptionedImage("3_c.jpg", tmp_path / "Flicker8k_Dataset/3_c.jpg", ("A bird .",))]


def test_flickr8k_texts_may_lie_beside_the_images(tmp_path):
    write_flickr8k(tmp_path)
    expected = Flickr8k(tmp_path).read("train")
    for path in (tmp_path / "Flickr8k_text").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "Flickr8k_text").rmdir()
    assert find_reader(tmp_path).read("train") == expected


def test_flickr8k_malformed_line(tmp_path):
    write_flickr8k(tmp_path)
    with open(tmp_path / "Flickr8k_text/Flickr8k.token.txt", "a") as file:
        file.write("no tab here\n")
    with pytest.raises(ValueError, match=r"token\.txt, line 7.*no tab here"):
        Flickr8k(tmp_path).read("dev")


def test_flickr8k_without_lists(tmp_path):
    write_flickr8k(tmp_path)
    for path in (tmp_path / "Flickr8k_text").glob("*Images.txt"):
        path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Flickr_8k\.trainImages\.txt: no such file, nor a list of dev or test"
    ):
        Flickr8k(tmp_path).read("train")
