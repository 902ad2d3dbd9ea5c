"""Parallel text: sentences with what they are to become."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.data.readers.base import TextReader, require_there
from captioner.texts import Ids, caption_text, parse_json, read_text
from captioner.types import TextPair


@dataclass(frozen=True)
class ParallelText(TextReader):
    """Parallel text, a pair a line, in UTF-8. A pair's key is the number of its line, or its `id`.

    Attributes:
        files: for each split one file, or two whose lines belong together. Two (`[train.en, train.de]`) hold sources
            and targets. One that ends in `.jsonl` holds objects with `source`, `target` (a text, or a list of them)
            and, if you like, `id`; any other holds `source<tab>target`, and more targets after more tabs.
    """

    files: dict[str, str | list[str]]

    @property
    def splits(self) -> tuple[str, ...]:
        """The keys of `files`."""
        return tuple(self.files)

    def items(self, split: str) -> list[TextPair]:
        """The pairs of a split; blank lines are left out, those that are blank on one side only are an error."""
        files = self.files[split]
        if isinstance(files, str):
            path = Path(files)
            pairs = _json_pairs(path) if path.suffix == ".jsonl" else _tab_pairs(path)
        else:
            if len(files) != 2:
                raise ValueError(f"split {split!r}: one file or two, sources and targets, not {len(files)}: {files}")
            pairs = _aligned_pairs(Path(files[0]), Path(files[1]))
        ids = Ids("pair")
        items = []
        for where, key, source, targets in pairs:
            item = TextPair(ids.add(key, where), source.strip(), tuple(target.strip() for target in targets))
            if not item.text or not all(item.captions):
                raise ValueError(f"{where}: the {'target' if item.text else 'source'} is empty")
            items.append(item)
        return items


Pair = tuple[str, "int | str", str, list[str]]
"""One pair as a file has it: its place for errors, its key, the source, the targets."""


def _lines(path: Path) -> list[str]:
    """All lines of a text file, blank ones too: in two files that belong together their numbers count."""
    lines = re.split(r"\r\n?|\n", read_text(require_there(path, "files")))  # splitlines knows more ends than files do
    return lines if lines[-1] else lines[:-1]


def _tab_pairs(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        source, *targets = line.split("\t")
        if not line.strip():
            continue
        if not targets:
            raise ValueError(f"{where}: no tab between source and target: {line[:80]!r}")
        yield where, number, source, targets


def _aligned_pairs(source_path: Path, target_path: Path) -> Iterator[Pair]:
    sources, targets = _lines(source_path), _lines(target_path)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source_path} has {len(sources):,} lines and {target_path} {len(targets):,}: they do not belong together"
        )
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        if source.strip() or target.strip():
            yield f"{target_path if source.strip() else source_path}, line {number}", number, source, [target]


def _json_pairs(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not a JSON object: {line[:80]!r}")
        targets = _field(row, "target", where)
        targets = [targets] if isinstance(targets, str) else targets
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise ValueError(f"{where}: the target is neither a text nor a list of texts")
        source, key = _field(row, "source", where), row.get("id", number)
        if not isinstance(source, str):
            raise ValueError(f"{where}: the source is not a text but {source!r}")
        targets = [caption_text(target, where, "target") for target in targets]
        yield where, key, caption_text(source, where, "source"), targets


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise ValueError(f"{where}: no {name!r}; there are: {', '.join(row) or 'none'}")
    return row[name]
