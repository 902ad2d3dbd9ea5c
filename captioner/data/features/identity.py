"""What features were made with, to tell whether they are those that are wanted."""

from __future__ import annotations

from typing import Any

from torch import nn

from captioner.data.images import ImageTransform
from captioner.specs import describe_part, is_spec, same_class, weights_digest

FORMAT = 1
FLOAT16_MAX = 65504.0


class CacheError(ValueError):
    """A cache that does not fit what it is asked for, is damaged, or has no room on the disk."""


def description(part: object) -> dict[str, Any]:
    """A part's class and constructor arguments side by side, as JSON values; likewise of parts among the arguments."""
    return _flat(describe_part(part))


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return [_flat(item) for item in value]
    if not is_spec(value):
        return value
    return {"class": value["class"], **{name: _flat(argument) for name, argument in value["args"].items()}}


def identity(encoder: nn.Module, transform: ImageTransform) -> dict[str, Any]:
    """What the features of an image depend on, as JSON values.

    Where weights came from (the encoder's argument `weights`) does not count: their bytes do.
    """
    arguments = {name: value for name, value in description(encoder).items() if name != "weights"}
    return {
        "format": FORMAT,
        "encoder": arguments,
        "weights": weights_digest(encoder),
        "transform": description(transform),
    }


def differences(made_with: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What differs between two identities, in words; a class may go by the name that it had in an earlier version."""
    found = []
    for part in ("format", "encoder", "transform"):
        old, new = made_with.get(part), wanted.get(part)
        if isinstance(old, dict) and isinstance(new, dict):
            names = [name for name in {**old, **new} if not _same(name, old.get(name), new.get(name))]
            found += [f"the {part}'s {name}: {old.get(name)!r} there, {new.get(name)!r} here" for name in names]
        elif old != new:
            found.append(f"the {part}: {old!r} there, {new!r} here")
    old, new = made_with.get("weights"), wanted.get("weights")
    if old != new:
        found.append(f"the encoder's weights: {str(old)[:12]} there, {str(new)[:12]} here")
    return found


def agree(made_with: dict[str, Any] | None, wanted: dict[str, Any] | None) -> bool:
    """Whether two identities (or descriptions of a part) are of the same; what is not known is the same as itself."""
    return _same("", made_with, wanted)


def _same(name: str, old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return all(_same(each, old.get(each), new.get(each)) for each in {**old, **new})
    if name == "class" and isinstance(old, str) and isinstance(new, str):
        return same_class(old, new)
    return old == new
