"""Parts as data: a part is a class, and its constructor's arguments are the config.

Every part keeps its constructor's arguments under their own names (`self.feature_dim = feature_dim`). That is all
that is needed to describe one as JSON values, to build it again, and to tell two of them apart. A description is
`{"class": "captioner.models.GridEncoder", "args": {"name": ...}}`; arguments that are parts are descriptions, too. A
vocabulary, which is all data, is `{"class": ..., "json": its text}`.

Files and configs name a class by the shortest path that leads to it. Paths of earlier versions go on working:
`OLD_MODULES` says what has become of them. Weights are told apart by a digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from captioner.tokenizer import Tokenizer
from captioner.types import Transform

OLD_MODULES = {
    "captioner.data.datamodule": "captioner.tasks.captioning",
    "captioner.data.dates": "captioner.data.readers",
    "captioner.data.shard_sets": "captioner.data.readers",
    "captioner.data.synthetic": "captioner.data.readers",
    "captioner.data.text": "captioner.data",
    "captioner.data.text_datamodule": "captioner.tasks.captioning",
    "captioner.data.transforms": "captioner.data",
    "captioner.tasks.averaging": "captioner.training",
    "captioner.tasks.resume": "captioner.training",
    "captioner.tasks.samples": "captioner.tasks.captioning",
    "captioner.tasks.schedules": "captioner.training",
}
"""Modules of earlier versions whose classes stand in files and configs, and where these classes are now."""

PARTS = (nn.Module, Transform)
"""The kinds of parts that may be arguments of parts."""

OWN = __name__.partition(".")[0]  # this package, whose classes need no trust


class SpecError(ValueError):
    """A description of what is not there, may not be built, or cannot be built."""


# ------------------------------------------------------------------------------------------ names


def public_name(cls: type) -> str:
    """The shortest path that leads to a class: `captioner.models.GridEncoder`; of other packages the path as it is."""
    full = f"{cls.__module__}.{cls.__qualname__}"
    parents = cls.__module__.split(".")
    if parents[0] != OWN:
        return full
    packages = (".".join(parents[:depth]) for depth in range(2, len(parents)))
    found = (package for package in packages if vars(sys.modules[package]).get(cls.__qualname__) is cls)
    return next((f"{package}.{cls.__qualname__}" for package in found), full)


def present_name(path: str) -> str:
    """Today's path for a path of any version; what is no class in one of `OLD_MODULES` stays as it is."""
    module, _, name = path.rpartition(".")
    if module not in OLD_MODULES or not name.isidentifier():
        return path
    found = vars(importlib.import_module(OLD_MODULES[module])).get(name)
    return f"{OLD_MODULES[module]}.{name}" if isinstance(found, type) else path


def with_present_names(value: Any) -> Any:
    """JSON values with all paths of earlier versions in them replaced, keys included."""
    if isinstance(value, str):
        return present_name(value)
    if isinstance(value, dict):
        return {
            present_name(key) if isinstance(key, str) else key: with_present_names(item) for key, item in value.items()
        }
    return [with_present_names(item) for item in value] if isinstance(value, list) else value


def same_class(one: str, other: str) -> bool:
    """Whether two paths, of any versions, lead to one class."""
    names = []
    for path in map(present_name, (one, other)):
        try:
            names.append(public_name(_class_of(path)) if path.startswith(f"{OWN}.") else path)
        except (ImportError, AttributeError):
            names.append(path)
    return names[0] == names[1]


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# ------------------------------------------------------------------------------------------ describing


def describe_part(part: object) -> dict[str, Any]:
    """A part's class and constructor arguments, as JSON values.

    Raises:
        ValueError: an argument is not kept under its name, or is nothing that JSON knows.
    """
    cls = type(part)
    args: dict[str, Any] = {}
    for name in inspect.signature(cls).parameters:
        try:
            value = getattr(part, name)
        except AttributeError:
            raise ValueError(
                f"{cls.__name__} must keep its argument {name!r} as self.{name}, so that a checkpoint can name it"
            ) from None
        try:
            args[name] = json.loads(json.dumps(value, default=_described))  # tuples become lists
        except TypeError:
            raise ValueError(
                f"{cls.__name__}'s argument {name!r} is a {type(value).__name__}: a checkpoint keeps numbers, texts, "
                "lists, dicts and modules"
            ) from None
    return {"class": public_name(cls), "args": args}


def _described(argument: object) -> Any:
    """An argument that JSON does not know: a path, modules, or a part."""
    if isinstance(argument, os.PathLike):
        return str(argument)
    if isinstance(argument, nn.ModuleList):
        return list(argument)
    if isinstance(argument, nn.Module) or dataclasses.is_dataclass(argument):
        return describe_part(argument)
    if hasattr(argument, "to_json"):
        return {"class": public_name(type(argument)), "json": argument.to_json()}
    raise TypeError


# ------------------------------------------------------------------------------------------ building


def build_part(spec: Mapping[str, Any], kind: type | tuple[type, ...], trust: Sequence[str] = ()) -> Any:
    """The module that `describe_part` described, untrained.

    Args:
        spec: the description; it may come from anywhere, and runs no code but the constructors of parts.
        kind: what it must be a subclass of; several of which one will do.
        trust: packages beside this one whose classes may be built.

    Raises:
        SpecError: the class is of another package, is not there, is no `kind`, or cannot be built here.
    """
    cls = _trusted_class(spec["class"], kind, trust)
    args = {}
    for name, value in spec["args"].items():
        if isinstance(value, list):
            value = [_argument(part, trust) for part in value]
        elif is_spec(value) and "Callable" in str(inspect.signature(cls).parameters[name].annotation):
            value = _factory(value, trust)
        args[name] = _argument(value, trust)
    try:
        return cls(**args)
    except (ValueError, TypeError, RuntimeError, OSError) as error:  # weights that are not at hand, say
        raise SpecError(f"its {cls.__name__} cannot be built: {error}") from error


def _trusted_class(path: str, kind: type | tuple[type, ...], trust: Sequence[str]) -> Any:
    """The class that a description names; the errors are those of `build_part`."""
    path = present_name(path)
    package = path.partition(".")[0]
    if package != OWN and package not in trust:
        raise SpecError(
            f"it needs {path}, from outside this package; if you trust {package!r}, say so: "
            f"trust=[{package!r}], or --trust {package} on the command line"
        )
    try:
        cls = _class_of(path)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: a path without a module
        raise SpecError(f"it needs {path}, which is not to be found: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise SpecError(f"{path} is no {' or '.join(cls.__name__ for cls in kinds)}")
    return cls


def _argument(value: Any, trust: Sequence[str]) -> Any:
    """An argument of a description: what it describes, or itself."""
    if is_spec(value):
        return build_part(value, PARTS, trust)
    if isinstance(value, dict) and value.keys() == {"class", "json"}:
        return _trusted_class(value["class"], Tokenizer, trust).from_json(value["json"])
    return value


def _factory(spec: Mapping[str, Any], trust: Sequence[str]) -> Callable[..., nn.Module]:
    """Makes a part that is described with its sizes, whatever sizes it is asked for; anew at each call."""
    return lambda *sizes: build_part(spec, nn.Module, trust)


def is_spec(value: Any) -> bool:
    """Whether an argument is a part that `describe_part` described."""
    return isinstance(value, dict) and value.keys() == {"class", "args"}


def package_of(part: object) -> str:
    """The package that a part's class is of."""
    return type(part).__module__.partition(".")[0]


# ------------------------------------------------------------------------------------------ weights


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers: names, types, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def weightless(value: Any) -> Any:
    """A description whose modules, at any depth, begin without weights, as these are to be put in."""
    if isinstance(value, list):
        return [weightless(part) for part in value]
    if not is_spec(value):
        return value
    args = {name: "none" if name == "weights" else weightless(part) for name, part in value["args"].items()}
    return {**value, "args": args}


def name_weights(module: Any, spec: Mapping[str, Any]) -> None:
    """Let modules, at any depth, say again where their weights came from."""
    for name, value in spec["args"].items():
        if name == "weights":
            module.weights = value
        elif is_spec(value):
            name_weights(getattr(module, name), value)
        elif isinstance(value, list):
            for number, part in enumerate(value):
                if is_spec(part):
                    name_weights(getattr(module, name)[number], part)
