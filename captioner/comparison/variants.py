"""The variants of a config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.texts import read_text, read_yaml


@dataclass(frozen=True)
class Variant:
    """One config of a comparison.

    Attributes:
        label: what the table calls it.
        group: the heading that it stands under; none for the first.
        name: of its runs' folder.
        configs: files, of which later ones change earlier ones.
    """

    label: str
    group: str
    name: str
    configs: tuple[Path, ...]


def find_variants(config: Path) -> list[Variant]:
    """The variants of a config: itself, then the files of the folder beside it, by folder and name.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: two of them have one name, by which their runs would be mixed up.
    """
    first = Variant(_label(config), "", f"{config.stem}/{config.stem}", (config,))
    folder = config.with_suffix("")
    variants = [
        first,
        *(
            Variant(
                _label(path),
                path.parent.name if path.parent != folder else "",
                f"{config.stem}/{path.stem}",
                (config, path),
            )
            for path in sorted(folder.rglob("*.yaml"))
        ),
    ]
    names = [variant.name for variant in variants]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"{folder}: two variants are called {Path(twice).name}: rename one")
    return variants


def digest_of(variant: Variant, changes: Sequence[str]) -> str:
    """A fingerprint of all that a variant is trained by, but its seed and comments.

    Raises:
        ValueError: a file is no YAML, or no config.
    """
    configs = [read_yaml(path) for path in variant.configs]
    try:
        text = json.dumps([configs, sorted(changes)], sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError) as error:  # keys of several types, an alias of itself
        raise ValueError(f"{variant.configs[-1]}: not a training config: {error}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _label(config: Path) -> str:
    """The first line of a config, a comment."""
    line = read_text(config).partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else config.stem
