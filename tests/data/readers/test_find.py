"""Folders are recognised by their layout."""

from __future__ import annotations

import pytest
from reader_cases import touch

from captioner.data.readers import find_reader, read_data


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": [{}]}', '{"images": [[]]}'])
def test_a_folder_with_a_malformed_karpathy_file(content, tmp_path):
    (tmp_path / "dataset_bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset_bad\.json"):
        find_reader(tmp_path)


def test_layouts_that_are_unknown(tmp_path):
    touch(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="layout") as caught:
        find_reader(tmp_path)
    assert all(name in str(caught.value) for name in ("Flickr8k", "COCO", "Karpathy", "captions.csv"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_reader(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml: no such folder of data, and no such config"):
        read_data(str(tmp_path / "mine.yaml"))
