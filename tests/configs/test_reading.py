"""Configs as they lie in files and on the command line; what is none is an error of one line."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentParser

from captioner.configs import data_arguments, present_argument, read_config, register_parser_mode
from captioner.training import Schedule, WarmupCosine


def test_paths_of_classes_are_those_of_today(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "schedules: [captioner.tasks.schedules.WarmupCosine, other.tasks.schedules.X]\n"
        "folders: [captioner.data.text.d, captioner.tasks.resume.run, captioner.data.text.]\n"
        "captioner.tasks.schedules.Constant: {class_path: captioner.data.dates.Dates, note: captioner.data.dates}\n"
    )
    assert read_config(tmp_path / "a.yaml") == {
        "schedules": ["captioner.training.WarmupCosine", "other.tasks.schedules.X"],
        "folders": ["captioner.data.text.d", "captioner.tasks.resume.run", "captioner.data.text."],
        "captioner.training.Constant": {"class_path": "captioner.data.readers.Dates", "note": "captioner.data.dates"},
    }


@pytest.mark.parametrize(
    "content", [b"data: [", b"\xff\xfe\x00", b"a: 2026-99-99", b"a: {{}: 1}", b"[" * 1200, b"a: &a [*a]"]
)
def test_what_is_no_yaml_is_named(content, tmp_path):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml: not (a YAML file|UTF-8 text)") as caught:
        read_config(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_data_have_arguments_in_either_form():
    assert data_arguments({"data": {"batch_size": 3}}) == {"batch_size": 3}
    assert data_arguments({"data": {"class_path": "TextData", "init_args": {"batch_size": 3}}}) == {"batch_size": 3}
    assert data_arguments({"data": {"class_path": "TextData"}}) == {}
    for config in (
        {},
        [],
        None,
        *({"data": data} for data in (None, "x", [1], 3, {1: 2}, {"class_path": "X", "init_args": 3})),
    ):
        with pytest.raises((KeyError, TypeError)):
            data_arguments(config)


@pytest.mark.parametrize("form", ["{}", "--model.schedule={}", "--a.b+={}"])
def test_arguments_are_those_of_today(form):
    old, new = "captioner.tasks.schedules.EpochDecay", "captioner.training.EpochDecay"
    assert present_argument(form.format(old)) == form.format(new)
    for other in ("3", "my_package.EpochDecay", "runs/captioner.tasks.schedules", "a=b"):
        assert present_argument(form.format(other)) == form.format(other)


def test_a_parser_reads_old_paths_and_writes_new_ones():
    parser = ArgumentParser(exit_on_error=False, parser_mode=register_parser_mode())
    parser.add_argument("--schedule", type=Schedule)
    config = parser.parse_string("schedule: {class_path: captioner.tasks.schedules.WarmupCosine}")
    assert isinstance(parser.instantiate_classes(config).schedule, WarmupCosine)
    assert "class_path: captioner.training.WarmupCosine" in parser.dump(config)
