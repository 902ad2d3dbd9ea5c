"""What is wrong with the arguments of a training, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captioner.configs.faults import explain, in_one_line
from captioner.configs.reading import present_argument, read_config

SPEC = ("class_path", "init_args", "dict_kwargs")


def fault(arguments: Sequence[str], sections: Mapping[str, Any], error: object) -> str:
    """What is wrong with arguments that a parser has refused.

    Args:
        arguments: of the command line, a sub-command perhaps before them.
        sections: what each section of a config is for; see `explain`.
        error: the parser's own.
    """
    message = str(error)
    try:
        found = explain(written(arguments), sections, message)
    except ValueError as unread:  # a config that is none, by its name
        return in_one_line(unread)
    except Exception:  # what is read here has been refused; its parser may say why
        found = None
    return found or in_one_line(message)


def written(arguments: Sequence[str]) -> dict[str, Any]:
    """All that configs and arguments say, the later before the earlier, as they are written.

    Raises:
        ValueError: a config is none.
    """
    import yaml

    values: dict[str, Any] = {}
    for name, text in _pairs(arguments):
        if name in ("c", "config"):
            _merge(values, _config(text) if text else {})
            continue
        try:
            value = yaml.safe_load(text or "null")
        except yaml.YAMLError:
            value = text
        file = Path(text or "")
        _put(values, name, read_config(file) if file.suffix in (".yaml", ".yml") and file.is_file() else value)
    return values


def _config(path: str) -> dict[str, Any]:
    """What a config says; nothing, if there is none."""
    config = read_config(path) if Path(path).is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not a training config: it has no sections by their names")
    return config


def _pairs(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Names and values of `--name value`, `--name=value` and `-c value`."""
    pairs = []
    for number, argument in enumerate(arguments):
        if argument == "-c" or argument.startswith("--"):
            name, equals, value = argument.lstrip("-").partition("=")
            following = arguments[number + 1] if number + 1 < len(arguments) else None
            given = following is not None and not following.startswith("--")
            pairs.append((name, present_argument(value) if equals else following if given else None))
    return pairs


def _merge(values: dict[str, Any], others: dict[str, Any]) -> None:
    """Put a config over what was there."""
    for name, value in others.items():
        there = values.get(name)
        if isinstance(there, dict) and isinstance(value, dict) and value.get("class_path") == there.get("class_path"):
            _merge(there, value)
        else:
            values[name] = value


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Put an argument's value where its name says; arguments of a class may be named without `init_args`."""
    *path, last = name.split(".")
    for step in path:
        values = _into(_arguments(values, step), step)
    values = _arguments(values, last)
    there = values.get(last)
    if last.endswith("+"):
        listed = values.setdefault(last[:-1], [])
        listed += value if isinstance(value, list) else [value]
    elif isinstance(there, dict) and isinstance(value, str):
        values[last] = {"class_path": value}
    elif isinstance(there, dict) and isinstance(value, dict):
        _merge(there, value)
    else:
        values[last] = value


def _arguments(values: dict[str, Any], name: str) -> dict[str, Any]:
    return _into(values, "init_args") if "class_path" in values and name not in SPEC else values


def _into(values: dict[str, Any], name: str) -> dict[str, Any]:
    """What lies under a name, to be put something into; of a list the last."""
    there = values.get(name)
    if isinstance(there, list) and there:
        if not isinstance(there[-1], dict):
            there[-1] = {"class_path": there[-1]}
        return there[-1]
    if not isinstance(there, dict):
        values[name] = {"class_path": there} if isinstance(there, str) else {}
    return values[name]
