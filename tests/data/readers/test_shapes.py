"""Drawn shapes."""

from __future__ import annotations

from captioner.data.readers import SyntheticShapes


def test_shapes_are_drawn_once_and_are_the_same_everywhere(tmp_path):
    first = SyntheticShapes(tmp_path / "a", num_train=3).read("train")
    times = [item.path.stat().st_mtime_ns for item in first]
    again = SyntheticShapes(tmp_path / "a", num_train=4).read("train")
    assert [item.path.stat().st_mtime_ns for item in again[:3]] == times
    other = SyntheticShapes(tmp_path / "b", num_train=3).read("train")
    assert [item.path.read_bytes() for item in first] == [item.path.read_bytes() for item in other]
    assert [item.captions for item in first] == [item.captions for item in other]
    assert len(first[0].captions) == 3
