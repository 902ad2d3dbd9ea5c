"""Training configs, and parts built of their sections. Paths of classes are read as they are today."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.specs import present_name, with_present_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


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
    set_loader(PARSER_MODE, lambda text: with_present_names(load(text)), (yaml.YAMLError,))
    return PARSER_MODE


def read_config(path: str | Path) -> Any:
    """What a YAML file holds, with the paths of classes as they are today.

    Raises:
        ValueError: it is no YAML file.
        OSError: it cannot be read.
    """
    import yaml

    try:
        return with_present_names(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error


def data_arguments(config: Any) -> dict[str, Any]:
    """The arguments of a config's data, whichever class these are of.

    Raises:
        KeyError, TypeError: it is no training config.
    """
    data = config["data"]
    return data.get("init_args", {}) if "class_path" in data else data


def instantiate(parser: ArgumentParser, values: dict[str, Any], where: str) -> Namespace:
    """The parts that a parser makes of values.

    Args:
        parser: one that raises its errors.
        values: by the names of its arguments.
        where: the file that they are from, for the error.

    Raises:
        ValueError: they describe no such parts.
    """
    from jsonargparse import ArgumentError

    try:
        return parser.instantiate_classes(parser.parse_object(values))
    except ArgumentError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
