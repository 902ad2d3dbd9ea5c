"""Configs as they lie in files and on the command line. Paths of classes are read as they are today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from captioner.specs import present_name, with_present_names
from captioner.texts import read_yaml

PARSER_MODE = "captioner"  # by this name jsonargparse knows how we read configs


def present_argument(argument: str) -> str:
    """An argument of a command line, `VALUE` or `--KEY=VALUE`, with a class's path as it is today."""
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}{present_name(value)}"


def register_parser_mode() -> str:
    """Have jsonargparse read configs in which classes may go by the paths of earlier versions.

    Returns:
        The name of the mode, for a parser's `parser_mode`.
    """
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")
    set_loader(PARSER_MODE, lambda text: with_present_names(load(text)), (yaml.YAMLError, RecursionError))
    return PARSER_MODE


def read_config(path: str | Path) -> Any:
    """What a YAML file holds, with the paths of classes as they are today; errors as for `read_yaml`."""
    try:
        return with_present_names(read_yaml(path))
    except RecursionError as error:
        raise ValueError(f"{path}: not a YAML file: something in it holds itself") from error


def data_arguments(config: Any) -> dict[str, Any]:
    """The arguments of a config's data, whichever class these are of.

    Raises:
        KeyError, TypeError: it is no training config.
    """
    data = config["data"]
    arguments = data.get("init_args", {}) if "class_path" in data else data
    if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
        raise TypeError(f"data are arguments by their names, not {arguments!r}")
    return arguments
