"""What is wrong with a config that a parser has refused, in one line: misspelt names with those alike, and wrong types.

Messages of jsonargparse are long, and other ones in each version. So the values are read again, beside what the classes
that they name say of their arguments. Nothing is refused here: if no fault is found, the parser's own words are used.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from captioner.configs.reading import read_config
from captioner.specs import arguments_of, choices_of, class_of, kinds_of

MOST_CHOICES = 24
MOST_LETTERS = 400

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
SPEC = {"class_path", "init_args", "dict_kwargs"}


def explain(values: Mapping[str, Any], sections: Mapping[str, Any], message: str = "") -> str | None:
    """The first fault of a config.

    Args:
        values: as they are written, by the names of sections.
        sections: what each section is for: a class, or a union of classes, or of values.
        message: a parser's; an unknown section must be in it.

    Returns:
        The place, what is wrong there, and the choices; None if nothing is found.
    """
    unknown = [name for name in values if name not in sections and name in message]
    if unknown:
        return f"there is no {unknown[0]!r}: {_choices(unknown[0], sections)}"
    faults = (fault for name in values if name in sections for fault in _faults(values[name], sections[name], name))
    return next(faults, None)


def in_one_line(error: object) -> str:
    """An error in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."


def said_by_part(error: object) -> str:
    """What a part said of its arguments, where the parser lists what every type of a union would have."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines()]
    own = [line[2:] for line in lines if line.startswith("- ") and not line.startswith("- Expected ")]
    return own[0] if own and "Union subtypes" in text else text


def _faults(value: Any, annotation: Any, key: str) -> Iterator[str]:
    """What is wrong with a value, and with what is inside it."""
    kinds = tuple(kind for kind in kinds_of(annotation) if _is_of_parts(kind))
    if isinstance(value, str) and kinds and not _fits(value, annotation):
        if value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file():
            yield from _faults(read_config(value), annotation, key)
        else:
            yield from _misnamed(value, kinds, key)
    elif isinstance(value, list):
        if _fits(value, annotation):
            for number, item in enumerate(value):
                yield from _faults(item, _inside(annotation), f"{key}[{number}]")
        else:
            yield _wrong(value, annotation, key)
    elif isinstance(value, Mapping) and kinds:
        yield from _faults_of_part(value, annotation, kinds, key)
    elif not _fits(value, annotation):
        yield _wrong(value, annotation, key)


def _faults_of_part(value: Mapping[str, Any], annotation: Any, kinds: tuple[type, ...], key: str) -> Iterator[str]:
    """What is wrong with a class and its arguments."""
    path = value.get("class_path")
    if path is None and "init_args" not in value:
        owners = [kind for kind in kinds if not inspect.isabstract(kind)]  # the class that is meant without a name
        given, where = value, key
    else:
        if not isinstance(path, str):
            return
        yield from _misnamed(path, kinds, key)
        owners, given, where = [_named(path, kinds)], value.get("init_args") or {}, f"{key}.init_args"
        unknown = [name for name in value if name not in SPEC]
        if unknown:
            yield f"{key}.{unknown[0]}: beside class_path there is init_args alone, for the arguments"
    if len(owners) != 1 or not isinstance(given, Mapping):
        return
    arguments = arguments_of(owners[0])
    own = list(arguments)[_given_by_a_factory(annotation) :]
    for name, item in given.items():
        if name not in own:
            why = "gets it from the model" if name in arguments else "has no such argument"
            yield f"{where}.{name}: {owners[0].__name__} {why}: {_choices(name, own)}"
        else:
            yield from _faults(item, arguments[name], f"{where}.{name}")


def _misnamed(name: str, kinds: tuple[type, ...], key: str) -> Iterator[str]:
    """What is wrong with a class's name, if anything is."""
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        found = _named(name, kinds)
    except (ImportError, AttributeError, ValueError, KeyError):
        yield f"{key}: no {wanted} {name!r}: {_choices(name.rpartition('.')[2], _subclasses(kinds))}"
        return
    if inspect.isclass(found) and not issubclass(found, kinds):
        yield f"{key}: {name} is no {wanted}: {_choices('', _subclasses(kinds))}"
    elif inspect.isclass(found) and inspect.isabstract(found):
        yield f"{key}: {name} is a class for others to be made of: {_choices('', _subclasses(kinds))}"
    elif not inspect.isclass(found) and not isinstance(found, kinds):
        yield f"{key}: {name} is no {wanted}, and no class: {_choices('', _subclasses(kinds))}"


def _named(name: str, kinds: tuple[type, ...]) -> Any:
    """What a class's name, or its path, leads to."""
    return class_of(name) if "." in name else _subclasses(kinds)[name]


def _subclasses(kinds: Iterable[type]) -> dict[str, type]:
    """The classes of some kinds that can be made, by their names."""
    found: dict[str, type] = {}
    for kind in kinds:
        if not inspect.isabstract(kind) and not kind.__name__.startswith("_"):
            found[kind.__name__] = kind
        found |= {name: each for name, each in _subclasses(kind.__subclasses__()).items() if name not in found}
    return found


def _choices(name: str, choices: Iterable[str]) -> str:
    """The names that are like one, and all there are."""
    names = list(choices)
    lower = {each.lower(): each for each in names}
    near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    meant = f"did you mean {' or '.join(near)}? Or " if near else ""
    shown = ", ".join(sorted(names)[:MOST_CHOICES]) + (", ..." if len(names) > MOST_CHOICES else "")
    return f"{meant}choose from {shown}" if names else "there is nothing to choose from"


def _is_of_parts(kind: type) -> bool:
    """Whether a config names classes of a kind; numbers with a unit, paths and tensors are written otherwise."""
    return kind.__module__.partition(".")[0] not in sys.stdlib_module_names and not issubclass(kind, torch.Tensor)


def _given_by_a_factory(annotation: Any) -> int:
    """How many of a part's first arguments no config gives, as who calls the factory does; a part as it is has none."""
    counts = []
    for choice in choices_of(annotation):
        given = get_args(choice)[0] if get_origin(choice) is Callable else []
        counts += [len(given)] if isinstance(given, list) and kinds_of(choice) else []
    return min(counts, default=0)


# ------------------------------------------------------------------------------------------ values


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value as it is written, which may be a text of the command line, can be what an annotation says."""
    return any(_is_a(value, choice) for choice in choices_of(annotation))


def _is_a(value: Any, choice: Any) -> bool:
    origin = get_origin(choice) or choice
    if origin is Literal:
        return value in get_args(choice) or str(value) in map(str, get_args(choice))
    if origin is type(None):
        return value in (None, "null", "")
    if origin is bool:
        return isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no", "on", "off")
    if origin in (int, float):
        return not isinstance(value, bool | list | dict | None.__class__) and _reads_as(value, origin)
    if origin is str:
        return isinstance(value, str)
    if origin in (list, tuple, set) or (isinstance(origin, type) and issubclass(origin, Iterable) and get_args(choice)):
        return isinstance(value, dict if issubclass(origin, Mapping) else list | tuple)
    if origin is Callable or (isinstance(origin, type) and _is_of_parts(origin)):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, torch.Tensor):
        return not isinstance(value, str)
    return True  # dicts, paths, times, and whatever says nothing


def _reads_as(value: Any, number: type) -> bool:
    try:
        number(value)
    except (TypeError, ValueError):
        return False
    return number is float or not isinstance(value, float) or value.is_integer()


def _inside(annotation: Any) -> Any:
    """What the items of a list are."""
    for choice in choices_of(annotation):
        origin, inside = get_origin(choice), get_args(choice)
        if inside and origin not in (Literal, Callable) and len({*inside} - {...}) == 1:
            return inside[0]
    return Any


def _wrong(value: Any, annotation: Any, key: str) -> str:
    wanted = []
    for choice in choices_of(annotation):
        origin = get_origin(choice) or choice
        kinds = kinds_of(choice)
        if origin is Literal:
            wanted.append(f"one of {', '.join(map(str, get_args(choice)))}")
        elif origin in (list, tuple, set):
            wanted.append("a list")
        elif kinds and _is_of_parts(kinds[0]):
            article = "an" if kinds[0].__name__[0] in "AEIOU" else "a"
            wanted.append(f"{article} {kinds[0].__name__}")
        else:
            wanted.append(NAMES.get(origin, str(choice)))
    return f"{key}: {value!r} is not {' or '.join(dict.fromkeys(wanted))}"
