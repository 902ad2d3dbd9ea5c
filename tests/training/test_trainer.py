"""The number format that a training chooses by itself."""

from __future__ import annotations

import warnings

import pytest
from pytorch_lightning.plugins import MixedPrecision

from captioner.training import Trainer

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


@pytest.fixture
def units(monkeypatch):
    def set_to(there: bool) -> None:
        monkeypatch.setattr("captioner.training.trainer.has_bf16", lambda device: there)

    return set_to


@pytest.fixture
def said(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr("captioner.training.trainer.rank_zero_info", lines.append)
    return lines


@pytest.mark.parametrize(("there", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bf16_where_the_device_has_it(units, said, there, expected):
    units(there)
    assert Trainer(precision="auto", **QUIET).precision == expected
    (line,) = said
    assert line == f"precision auto: {expected}, as this CPU has {'' if there else 'no '}bfloat16 units"


def test_what_is_asked_for_is_done_and_its_price_named(units, said):
    units(False)
    with pytest.warns(UserWarning, match="precision bf16-mixed: bf16 is emulated, as this CPU has no bfloat16 units"):
        assert Trainer(precision="bf16-mixed", **QUIET).precision == "bf16-mixed"
    with pytest.warns(UserWarning, match="precision 16-mixed: bf16 is emulated"):
        Trainer(precision="16-mixed", **QUIET)  # bf16 takes its place on a CPU
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert Trainer(**QUIET).precision == "32-true"
        units(True)
        assert Trainer(precision="bf16-mixed", **QUIET).precision == "bf16-mixed"
    assert said == []


def test_a_plugin_of_precision_decides(units):
    units(False)
    trainer = Trainer(precision="auto", plugins=[MixedPrecision("bf16-mixed", "cpu")], **QUIET)
    assert trainer.precision == "bf16-mixed"
