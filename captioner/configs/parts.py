"""Parts made of a config's values, and nothing but parts.

A parser makes whatever `class_path` leads to if an argument is not for a class but for "something that can be called",
or has no type: a function is called there, whichever it is. So before anything is made, everything that would be is
looked at: it must be of the class that the argument is for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from captioner.configs.faults import explain, in_one_line, said_by_part
from captioner.specs import PARTS, SpecError, arguments_of, class_of, kinds_of, returned_by

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

NO_PART = "is no {}, so that nothing is made of it: name a class that is one"


def instantiate(parser: ArgumentParser, values: dict[str, Any], sections: Mapping[str, Any], where: str) -> Namespace:
    """The parts that a parser makes of values.

    Args:
        parser: one that raises its errors.
        values: by the names of its arguments.
        sections: what each argument is for: a class, or a union of classes.
        where: the file that they are from, for the error.

    Raises:
        ValueError: they describe no such parts.
    """
    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_object(values)
        require_parts(parsed, sections)
        return parser.instantiate_classes(parsed)
    except (ArgumentError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: {explain(values, sections, str(error)) or in_one_line(error)}") from error
    except ValueError as error:  # of the parts themselves
        raise ValueError(f"{where}: {said_by_part(error)}") from error


def require_parts(values: Any, sections: Mapping[str, Any]) -> None:
    """See that nothing but parts is made of parsed values.

    Args:
        values: a parser's.
        sections: what each is for: a class, or a union of classes; the others make nothing.

    Raises:
        SpecError: something else would be made, or called.
    """
    for name, value in _mapping(values).items():
        _require(value, sections.get(name, Any), name)


def _require(value: Any, annotation: Any, key: str) -> None:
    """See that what stands under a key, at any depth, makes nothing but what its annotation says."""
    if isinstance(value, list | tuple | set):
        for number, item in enumerate(value):
            _require(item, annotation, f"{key}[{number}]")
        return
    kinds = kinds_of(annotation)
    if kinds and inspect.isroutine(value) and not _all_are(kinds_of(returned_by(value)), kinds):
        raise SpecError(f"{key}: {value.__module__}.{value.__name__} {NO_PART.format(_names(kinds))}")
    values = _mapping(value)
    if isinstance(values.get("class_path"), str):
        maker = _made_by(values["class_path"], kinds or PARTS, key)
        arguments = arguments_of(maker)
        for group in ("init_args", "dict_kwargs"):
            for name, item in _mapping(values.get(group)).items():
                if not any(item is default for default in _defaults(maker, name)):
                    _require(item, arguments.get(name, Any), f"{key}.{group}.{name}")
        return
    own = {name: each for kind in reversed(kinds) for name, each in arguments_of(kind).items()}
    for name, item in values.items():
        if not any(item is default for kind in kinds for default in _defaults(kind, name)):
            _require(item, own.get(name, annotation), f"{key}.{name}")


def _made_by(path: str, kinds: tuple[type, ...], key: str) -> Any:
    """The class at a path, or the function that says it makes one.

    Raises:
        SpecError: it makes something else.
    """
    try:
        found = class_of(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(f"{key}: {path} is not to be found: {error}") from error
    made = (found,) if inspect.isclass(found) else kinds_of(returned_by(found))
    if not _all_are(made, kinds):
        raise SpecError(f"{key}: {path} {NO_PART.format(_names(kinds))}")
    return found


def _all_are(made: tuple[type, ...], kinds: tuple[type, ...]) -> bool:
    """Whether all classes, of which there must be some, are of some kinds."""
    return bool(made) and all(issubclass(each, kinds) for each in made)


def _names(kinds: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


def _defaults(maker: Any, name: str) -> list[Any]:
    """What a class has as an argument's default, which no config has named; those of its bases, too."""
    if not inspect.isclass(maker):
        return []
    constructors = (vars(cls).get("__init__") for cls in maker.__mro__)
    signatures = [inspect.signature(each) for each in constructors if inspect.isfunction(each)]
    return [signature.parameters[name].default for signature in signatures if name in signature.parameters]


def _mapping(value: Any) -> Mapping[str, Any]:
    """What stands under names in a value; nothing, if it has none."""
    from jsonargparse import Namespace

    if isinstance(value, Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else {}
