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
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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


def class_of(path: str) -> Any:
    """What a path of any version leads to; a class, if it is one that a config or a file may name.

    Raises:
        ImportError, AttributeError, ValueError: there is nothing.
    """
    try:
        return _class_of(present_name(path))
    except ModuleNotFoundError:
        outer, _, name = path.rpartition(".")  # a class within a class
        return getattr(_class_of(outer), name)


# ------------------------------------------------------------------------------------------ what may be an argument

PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type, type(None), object)
"""Types of values that are no parts."""


def arguments_of(made: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a class, or of a function, and what each may be: its annotation, `Any` where there is none.

    Those that `**kwargs` hand on to the constructors of base classes are among them.
    """
    found: dict[str, Any] = {}
    for cls in made.__mro__ if isinstance(made, type) else (made,):
        function = vars(cls).get("__init__") if isinstance(cls, type) else cls
        if function is None or function is object.__init__:
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except (ValueError, TypeError):  # of C
            break
        module = getattr(inspect.unwrap(function), "__globals__", {})
        for parameter in list(parameters)[1:] if isinstance(cls, type) else parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, _annotation(parameter.annotation, module))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def returned_by(function: Callable[..., Any]) -> Any:
    """What a function says that it returns; `Any` if it does not say."""
    try:
        written = inspect.signature(function).return_annotation
    except (ValueError, TypeError):  # of C
        return Any
    return _annotation(written, getattr(inspect.unwrap(function), "__globals__", {}))


def _annotation(written: Any, module: dict[str, Any]) -> Any:
    """An annotation as an object; `Any` for one that is not there, or that names what is there for type checkers."""
    if written is inspect.Parameter.empty:
        return Any
    try:
        return eval(written, module) if isinstance(written, str) else written  # the code of a module that is imported
    except Exception:
        return Any


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The types that a union is of; of any other annotation itself."""
    if get_origin(annotation) is Annotated:
        return choices_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(choice for part in get_args(annotation) for choice in choices_of(part))
    return (annotation,)


def kinds_of(annotation: Any) -> tuple[type, ...]:
    """The classes that the parts at an argument are of, in lists and made by factories, too; none if it is not said."""
    kinds: list[type] = []
    for choice in choices_of(annotation):
        origin, inside = get_origin(choice), get_args(choice)
        if origin is Callable:
            kinds += kinds_of(inside[-1])
        elif origin is not None and origin is not Literal:
            kinds += (kind for each in inside for kind in kinds_of(each))
        elif isinstance(choice, type) and choice not in PLAIN and not _says_nothing(choice):
            kinds.append(choice)
    return tuple(dict.fromkeys(kinds))


def _can_be(value: Any, annotation: Any) -> bool:
    """Whether a value can be what an annotation says, as far as that is of values without parts in them."""
    for choice in choices_of(annotation):
        if get_origin(choice) is Literal:
            fits = value in get_args(choice)
        elif choice in (bool, str, type(None)):
            fits = isinstance(value, choice)
        elif choice in (int, float):
            fits = isinstance(value, (int, choice)) and not isinstance(value, bool)
        else:
            return True
        if fits:
            return True
    return False


def _says_nothing(kind: type) -> bool:
    """Whether it is no class that others are subclasses of: anything, whatever can be called, or has some methods."""
    return kind in (Any, Callable) or vars(kind).get("_is_protocol", False)


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
    args, wanted = {}, arguments_of(cls)
    for name, value in spec["args"].items():
        annotation = wanted.get(name, Any)
        described = isinstance(value, dict) and "class" in value
        if cls.__module__.partition(".")[0] == OWN and not described and not _can_be(value, annotation):
            raise SpecError(f"its {cls.__name__} cannot be built: {name} cannot be {value!r}")
        kinds = kinds_of(annotation) or PARTS
        if isinstance(value, list):
            value = [_argument(part, kinds, trust) for part in value]
        elif is_spec(value) and any(get_origin(choice) is Callable for choice in choices_of(annotation)):
            value = _factory(value, kinds, trust)
        args[name] = _argument(value, kinds, trust)
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


def _argument(value: Any, kinds: tuple[type, ...], trust: Sequence[str]) -> Any:
    """An argument of a description: what it describes, which is to be of one of the kinds, or itself."""
    if is_spec(value):
        return build_part(value, kinds, trust)
    if isinstance(value, dict) and value.keys() == {"class", "json"}:
        return _trusted_class(value["class"], Tokenizer, trust).from_json(value["json"])
    return value


def _factory(spec: Mapping[str, Any], kinds: tuple[type, ...], trust: Sequence[str]) -> Callable[..., nn.Module]:
    """Makes a part that is described with its sizes, whatever sizes it is asked for; anew at each call."""
    return lambda *sizes: build_part(spec, kinds, trust)


def is_spec(value: Any) -> bool:
    """Whether an argument is a part that `describe_part` described."""
    return isinstance(value, dict) and value.keys() == {"class", "args"}


def packages_in(value: Any) -> set[str]:
    """The packages that the classes of a description are of, those of its arguments at any depth included."""
    if isinstance(value, Mapping):
        own = {str(value["class"]).partition(".")[0]} if "class" in value else set()
        return own.union(*map(packages_in, value.values()))
    return set().union(*map(packages_in, value)) if isinstance(value, list) else set()


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
