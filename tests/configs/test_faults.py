"""What is wrong with a config, in one line: the place, what stands there, and the choices."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from captioner.configs.faults import MOST_LETTERS, explain, in_one_line, said_by_part
from captioner.models import AdditiveAttention, Decoder, Encoder, GridEncoder
from captioner.training import Schedule


class Whole:
    """What a config describes."""

    def __init__(
        self,
        encoder: Encoder | Callable[[int], Encoder],
        decoder: Callable[[int, int], Decoder],
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        schedules: list[Schedule] | Schedule | None = None,
        batch_size: int = 3,
        rate: float | None = None,
        pair: tuple[float, float] = (0, 1),
        shuffled: bool = True,
        every: datetime.timedelta | None = None,
        strategy: str | Schedule = "auto",
        tensor: float | torch.Tensor = 0.1,
        files: dict[str, str] | None = None,
        anything: Any = None,
        **others: Any,
    ) -> None: ...


SECTIONS = {"run_dir": str, "whole": Whole}


def fault(message: str = "", **values: Any) -> str | None:
    return explain({"whole": values}, SECTIONS, message)


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


MISTAKES = [
    ({"decoder": "UppDown"}, "decoder: no Decoder 'UppDown': did you mean UpDown? Or choose from AdaptiveDecoder, "),
    ({"decoder": "updown"}, "decoder: no Decoder 'updown': did you mean UpDown?"),
    ({"decoder": part("captioner.models.UppDown")}, "no Decoder 'captioner.models.UppDown': did you mean UpDown?"),
    ({"decoder": part("captioner.model.UpDown")}, "no Decoder 'captioner.model.UpDown': did you mean UpDown?"),
    ({"decoder": part("captioner.models.GridEncoder")}, "captioner.models.GridEncoder is no Decoder: choose from Adap"),
    ({"decoder": "os.system"}, "decoder: os.system is no Decoder, and no class: choose from AdaptiveDecoder"),
    ({"decoder": "captioner.models.RecurrentDecoder"}, "is a class for others to be made of: choose from"),
    (
        {"decoder": part("UpDown", hiden_dim=3)},
        "decoder.init_args.hiden_dim: UpDown has no such argument: did you mean hidden_dim?",
    ),
    ({"decoder": part("UpDown", vocab_size=3)}, "decoder.init_args.vocab_size: UpDown gets it from the model: "),
    ({"decoder": part("UpDown", hidden_dim="abc")}, "decoder.init_args.hidden_dim: 'abc' is not a whole number"),
    ({"decoder": part("UpDown", project_dim=[1])}, "project_dim: [1] is not a whole number or null"),
    ({"decoder": part("ShowAttendTell", gate="vectr")}, "gate: 'vectr' is not one of none, scalar, vector"),
    (
        {"decoder": part("UpDown", attention=part("AdditiveAttention", normaliser="Softmaxx"))},
        "decoder.init_args.attention.init_args.normaliser: no Normaliser 'Softmaxx': did you mean Softmax?",
    ),
    (
        {"decoder": {"class_path": "UpDown", "hidden_dim": 3}},
        "decoder.hidden_dim: beside class_path there is init_args",
    ),
    ({"optimizer": part("Adamm")}, "optimizer: no Optimizer 'Adamm': did you mean"),
    (
        {"optimizer": part("torch.optim.Adam", lrr=1)},
        "optimizer.init_args.lrr: Adam has no such argument: did you mean lr?",
    ),
    (
        {"schedules": [part("Constant"), part("EpochDecay", gama=1)]},
        "schedules[1].init_args.gama: EpochDecay has no such",
    ),
    ({"schedules": part("EpochDekay")}, "schedules: no Schedule 'EpochDekay': did you mean EpochDecay?"),
    ({"batch_size": "many"}, "whole.batch_size: 'many' is not a whole number"),
    ({"batch_size": 1.5}, "whole.batch_size: 1.5 is not a whole number"),
    ({"batch_size": None}, "whole.batch_size: None is not a whole number"),
    ({"batch_size": True}, "whole.batch_size: True is not a whole number"),
    ({"encoder": 3}, "whole.encoder: 3 is not an Encoder"),
    ({"rate": "fast"}, "whole.rate: 'fast' is not a number or null"),
    ({"pair": [0.5, "x"]}, "whole.pair[1]: 'x' is not a number"),
    ({"pair": 3}, "whole.pair: 3 is not a list"),
    ({"shuffled": "perhaps"}, "whole.shuffled: 'perhaps' is not true or false"),
    ({"tensor": "abc"}, "whole.tensor: 'abc' is not a number or "),
    ({"bach_size": 3}, "whole.bach_size: Whole has no such argument: did you mean batch_size?"),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_named_with_the_choices(values, message):
    found = fault(**values)
    assert found is not None
    assert message in found
    assert found.startswith("whole.")
    assert "\n" not in found


@pytest.mark.parametrize(
    "values",
    [
        {"decoder": part("captioner.models.UpDown", hidden_dim=3, attention=part("AdditiveAttention"))},
        {"decoder": "UpDown", "encoder": part("captioner.models.GridEncoder", mean=[0.1, 0.2, 0.3])},
        {"encoder": part("WordEncoder", vocab_size=3)},
        {"optimizer": part("torch.optim.Adam", lr=1e-3, betas=[0.9, 0.99])},
        {"optimizer": part("torch.optim.AdamW", weight_decay=0.1)},
        {"batch_size": "3", "rate": "3e-3", "shuffled": "false", "pair": ["0.5", 1], "tensor": 0.1},
        {
            "rate": None,
            "schedules": None,
            "every": "1:00",
            "strategy": "ddp",
            "files": {"train": "a.tsv"},
            "anything": [{}],
        },
        {"schedules": ["Constant", part("EpochDecay", gamma=1)]},
        {"strategy": part("Constant")},
    ],
    ids=str,
)
def test_what_is_right_is_no_fault(values):
    assert fault(**values) is None


def test_sections_that_are_not_there():
    values = {"run_dirr": "x", "whole": {"batch_size": "x"}}
    assert explain(values, SECTIONS, "Option 'run_dirr' is not accepted") == (
        "there is no 'run_dirr': did you mean run_dir? Or choose from run_dir, whole"
    )
    assert explain(values, SECTIONS, "something else") == "whole.batch_size: 'x' is not a whole number"


def test_a_part_in_a_file_of_its_own(tmp_path):
    (tmp_path / "decoder.yaml").write_text("class_path: UpDown\ninit_args: {hiden_dim: 3}\n")
    assert "whole.decoder.init_args.hiden_dim: UpDown has no such" in (
        fault(decoder=str(tmp_path / "decoder.yaml")) or ""
    )


def test_sections_may_be_parts_or_unions():
    assert "no Encoder or Attention 'X'" not in (explain({"a": "X"}, {"a": Encoder}) or "")
    assert (explain({"a": "GridEncodr"}, {"a": GridEncoder | AdditiveAttention}) or "").startswith(
        "a: no GridEncoder or AdditiveAttention 'GridEncodr': did you mean GridEncoder?"
    )


def test_errors_in_one_line():
    assert in_one_line("a\n  b\n") == "a b"
    assert in_one_line("x" * 2000) == "x" * MOST_LETTERS + " ..."


def test_a_part_s_own_words_are_found_among_a_parser_s():
    lines = [
        "Does not validate against any of the Union subtypes",
        "Errors:",
        "  - size must be 1",
        "  - Expected a None",
    ]
    assert said_by_part(ValueError("\n".join(lines))) == "size must be 1"
    assert said_by_part(ValueError("a list:\n  - of files")) == "a list:\n  - of files"
