"""Nothing but parts is made of a config, whatever its classes are called."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from torch.optim import Optimizer

from captioner.configs import instantiate, require_parts
from captioner.decoding import Search
from captioner.models import Decoder, Encoder, GridEncoder, ShowAttendTell
from captioner.models.attention import Attention
from captioner.specs import SpecError
from captioner.training import EpochDecay, Schedule, WarmupCosine

HERE = __name__


class Whole:
    """What a config describes, with an argument of each kind."""

    def __init__(
        self,
        encoder: Encoder | Callable[[int], Encoder] | None = None,
        decoder: Callable[[int, int], Decoder] | None = None,
        optimizer: Callable[[Iterable], Optimizer] | None = None,
        schedule: Schedule | None = None,
        several: list[Schedule] | Schedule | None = None,
        named: dict[str, Schedule] | None = None,
        anything: Any = None,
        untyped=None,
        called: Callable | None = None,
        thing: object = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name != "self" and value is not None}


def slow() -> EpochDecay:
    """A function that says what it makes."""
    return EpochDecay(0.5)


def silent():
    """One that does not."""
    raise AssertionError("it ran")


def made(values: dict[str, Any]) -> dict[str, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Whole, "whole")
    return instantiate(parser, {"whole": values}, {"whole": Whole}, "a.yaml").whole.given


def touch(path: Path) -> list[dict[str, Any]]:
    """Descriptions that would leave a file behind if anything was called."""
    return [
        {"class_path": "os.mkdir", "init_args": {"path": str(path)}},
        {"class_path": "os.system", "init_args": {"command": f"touch {path}"}},
        {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(path)]}},
        {"class_path": "subprocess.run", "dict_kwargs": {"args": ["touch", str(path)]}},
        {"class_path": "pathlib.Path.touch", "init_args": {"self": str(path)}},
        {"class_path": "builtins.exec", "init_args": {"source": f"open({str(path)!r}, 'w')"}},
        {"class_path": "builtins.eval", "init_args": {"source": f"open({str(path)!r}, 'w')"}},
        {"class_path": "torch.optim.sgd.torch.os.system", "init_args": {"command": f"touch {path}"}},
        {"class_path": f"{HERE}.silent"},
        {"class_path": "captioner.seeds.stable_seed", "init_args": {}},
    ]


PLACES = ["encoder", "decoder", "optimizer", "schedule", "several", "named", "anything", "untyped", "called", "thing"]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_else_is_called(place, tmp_path):
    specs = touch(tmp_path / "exploded")
    for spec in specs:
        for value in (spec, [spec], {"a": spec}, {"a": [{"b": spec}]})[: 4 if spec is specs[0] else 1]:
            with pytest.raises(ValueError, match=r"^a\.yaml: ") as caught:
                made({place: value})
            assert "\n" not in str(caught.value)
            assert list(tmp_path.iterdir()) == [], spec


def test_nor_within_the_arguments_of_a_part(tmp_path):
    within = {"class_path": "captioner.models.ShowAttendTell"}
    for spec in touch(tmp_path / "exploded"):
        with pytest.raises(ValueError, match=r"^a\.yaml: .*attention"):
            made({"decoder": {**within, "init_args": {"attention": spec}}})
        with pytest.raises(ValueError, match=r"^a\.yaml: "):
            made({"anything": {**within, "init_args": {"feature_dim": 3, "vocab_size": 3, "attention": spec}}})
    assert list(tmp_path.iterdir()) == []


def test_parts_are_made_where_they_belong():
    decay = {"class_path": "captioner.training.EpochDecay", "init_args": {"gamma": 0.5}}
    warm = {"class_path": "captioner.training.WarmupCosine"}
    given = made({"schedule": decay, "several": [warm, decay], "named": {"a": warm}})
    assert given["schedule"].gamma == 0.5
    assert [type(each) for each in given["several"]] == [WarmupCosine, EpochDecay]
    assert type(given["named"]["a"]) is WarmupCosine
    attention = {"class_path": "AdditiveAttention", "init_args": {"attention_dim": 7}}
    sizes = {"attention": attention, "hidden_dim": 9, "embed_dim": 9}
    given = made({"decoder": {"class_path": "ShowAttendTell", "init_args": sizes}, "optimizer": "torch.optim.Adam"})
    decoder = given["decoder"](5, 6)
    assert isinstance(decoder, ShowAttendTell)
    assert (decoder.attention.attention_dim, decoder.feature_dim) == (7, 5)
    assert isinstance(given["optimizer"](decoder.parameters()), Optimizer)


def test_a_part_may_stand_where_nothing_says_what_belongs():
    spec = {"class_path": "captioner.models.PrecomputedRegions", "init_args": {"feature_dim": 3}}
    for place in ("anything", "untyped", "thing"):
        require_parts({"whole": {place: spec}}, {"whole": Whole})
        assert place in made({place: spec})  # whether it is made there depends on the parser's version


def test_a_function_that_says_what_it_makes_will_do():
    require_parts({"a": {"class_path": f"{HERE}.slow"}}, {"a": Schedule})
    for kind in (Decoder, Search, Any):
        with pytest.raises(SpecError, match=r"a: .*slow is no .*so that nothing is made of it"):
            require_parts({"a": {"class_path": f"{HERE}.slow"}}, {"a": kind})


class WithDefault(ShowAttendTell):
    """A part of others whose default is a function that says nothing."""

    def __init__(
        self, feature_dim: int, vocab_size: int, attention: Callable[[int, int], Attention] = lambda *sizes: None
    ):
        super().__init__(feature_dim, vocab_size, attention)


def test_functions_that_are_values_are_looked_at_too():
    """Some versions of the parser make a function of its name."""
    sections = {"a": Callable[[int], Encoder] | Encoder, "b": Callable}
    with pytest.raises(SpecError, match=r"a: .*silent is no Encoder, so that nothing is made of it"):
        require_parts({"a": silent}, sections)
    with pytest.raises(SpecError, match=r"a\[0\]: .*system is no Encoder"):
        require_parts({"a": [os.system]}, sections)
    require_parts({"a": lambda_of(Encoder), "b": silent}, sections)
    default = inspect.signature(WithDefault).parameters["attention"].default
    for given, refused in ((default, False), (silent, True)):
        spec = {"class_path": f"{HERE}.WithDefault", "init_args": {"attention": given}}
        with pytest.raises(SpecError, match="attention") if refused else nullcontext():
            require_parts({"decoder": spec}, {"decoder": Callable[[int, int], Decoder]})


def lambda_of(kind: type) -> Callable:
    """A function that says that it makes something of a kind."""

    def make():
        raise NotImplementedError

    make.__annotations__["return"] = kind
    return make


def test_a_class_of_another_kind_is_refused():
    spec = {"class_path": "captioner.models.GridEncoder", "init_args": {"name": "x"}}
    require_parts({"a": spec, "b": 3}, {"a": GridEncoder | Callable[[int], Encoder]})
    with pytest.raises(SpecError, match=r"a\[0\]: captioner\.models\.GridEncoder is no Attention"):
        require_parts({"a": [spec]}, {"a": list[Attention]})
    with pytest.raises(SpecError, match="nowhere.Thing is not to be found"):
        require_parts({"a": {"class_path": "nowhere.Thing"}}, {"a": Attention})
    assert "nowhere" not in sys.modules


def test_errors_name_the_file_and_what_is_misspelt():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--schedule", type=Schedule)
    values = {"schedule": {"class_path": "captioner.training.WarmupCosine", "init_args": {"warmup_steps": 3}}}
    found = instantiate(parser, values, {"schedule": Schedule}, "a.yaml").schedule
    assert isinstance(found, WarmupCosine)
    assert found.warmup_steps == 3
    values["schedule"]["init_args"] = {"warmup_step": 3}
    with pytest.raises(ValueError, match=r"^a\.yaml: schedule\.init_args\.warmup_step: .* did you mean warmup_steps\?"):
        instantiate(parser, values, {"schedule": Schedule}, "a.yaml")
