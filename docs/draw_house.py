"""Draws the rooms of the package as the house of `architecture.md`, from the imports in its source.

    python docs/draw_house.py

A room is a folder or a file of `captioner/`; what stands in it is the first sentence of its docstring. A line leads
from a room to one that it imports; lines that follow from others are left out. What would run up, or to the right on
one floor, is red. `tests/whole/test_rooms.py` reads the same, and allows no red line and no drawing of yesterday.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).parents[1] / "captioner"
DRAWING = Path(__file__).parent / "images" / "house.svg"
PACKAGE = "captioner"
FLOORS = (
    ("command line", ("cli",)),
    ("problems", ("tasks", "bulk", "evaluation", "comparison")),
    ("at work", ("training", "predictors")),
    ("model files", ("checkpoint",)),
    ("parts and data", ("models", "decoding", "losses", "metrics", "heatmaps", "data")),
    ("ground", ("types", "tokenizer", "specs", "configs", "files", "seeds", "progress", "version")),
)
"""From the top. A room may import those on lower floors, and those to its left on its own."""

ORDER = tuple(room for _, floor in reversed(FLOORS) for room in floor)
"""All rooms, each after those that it may import."""

INSIDE = {"data": ("images", "shards", "features", "readers", "sources", "batches")}
"""Rooms within a room, in the order in which they may import."""

WIDTH, MARGIN, LABEL, GAP, TITLE, LINE, FLOOR_GAP = 1180, 18, 104, 12, 17, 13, 44
INK, FAINT, ROOM, EDGE, WRONG = "#1f2933", "#5b6775", "#f4f6f8", "#8fa1b3", "#d64545"


# ------------------------------------------------------------------------------------------ what is imported


def modules(root: Path = ROOT) -> list[str]:
    """All modules, as paths from the package's folder."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))


def imports(source: str, top_only: bool = False) -> Iterator[str]:
    """The full names of the modules that a source imports; those inside functions and for type checkers, too.

    Args:
        source: of a module.
        top_only: leave out those that are not imported at once.
    """
    tree = ast.parse(source)
    for node in list(tree.body) if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str, known: Mapping[str, str]) -> str | None:
    """The module of this package that an imported name is, or is in; None for one of another package.

    Args:
        name: `captioner.types.Memory`, say.
        known: the package's modules by their full names.
    """
    while name:
        if name in known:
            return known[name]
        name = name.rpartition(".")[0]
    return None


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """For each module the modules of the package that it imports."""
    known = {full_name(module): module for module in modules(root)}
    found: dict[str, set[str]] = {}
    for module in modules(root):
        names = imports((root / module).read_text(encoding="utf-8"))
        found[module] = {used for name in names if (used := module_of(name, known)) is not None} - {module}
    return found


def full_name(module: str) -> str:
    """`data/images/__init__.py` as captioner.data.images."""
    parts = (PACKAGE, *module.removesuffix(".py").split("/"))
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """`data/images/opening.py` -> data; the package's own file is its door."""
    return module.partition("/")[0].removesuffix(".py")


def between_rooms(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each room the rooms that its modules import; the package's door is left out."""
    found: dict[str, set[str]] = {room: set() for room in ORDER}
    for module, used in edges.items():
        if room_of(module) != "__init__":
            found[room_of(module)] |= {room_of(other) for other in used} - {room_of(module), "__init__"}
    return found


def direct(rooms: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others: of a room that imports a second and a third, not the third if the
    second leads there.
    """

    def reach(room: str, seen: set[str]) -> set[str]:
        for other in rooms[room] - seen:
            seen.add(other)
            reach(other, seen)
        return seen

    beyond = {room: {far for other in used for far in reach(other, set())} for room, used in rooms.items()}
    return sorted((room, other) for room, used in rooms.items() for other in used - beyond[room])


# ------------------------------------------------------------------------------------------ the drawing


def purpose(room: str, root: Path = ROOT) -> str:
    """The first sentence of a room's docstring, without a title before it ("Data: ...")."""
    path = root / room / "__init__.py"
    doc = ast.get_docstring(ast.parse((path if path.exists() else root / f"{room}.py").read_text(encoding="utf-8")))
    first = " ".join((doc or "").partition("\n\n")[0].split())
    sentence = first.partition(". ")[0].rstrip(".").replace("`", "")
    title, colon, rest = sentence.partition(": ")
    return rest[0].upper() + rest[1:] if colon and len(title) < 14 else sentence


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A box with round corners."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="5" fill="{fill}" stroke="{EDGE}"/>'


class Box:
    """A room's place in the drawing, in pixels."""

    def __init__(self, room: str, x: float, width: float) -> None:
        self.room = room
        self.x, self.width = x, width
        self.y = 0.0
        self.lines = wrap(purpose(room), int((width - 16) / 6.0))
        self.height = 12 + TITLE + LINE * len(self.lines) + (24 if room in INSIDE else 0)

    def svg(self) -> Iterator[str]:
        """The box with its text."""
        name = self.room if (ROOT / f"{self.room}.py").exists() else f"{self.room}/"
        yield rectangle(self.x, self.y, self.width, self.height, ROOM)
        yield f'<text x="{self.x + 8}" y="{self.y + 19}" class="name">{name}</text>'
        for number, line in enumerate(self.lines, start=1):
            yield f'<text x="{self.x + 8}" y="{self.y + 18 + LINE * number + 3}">{escape(line)}</text>'
        inside = INSIDE.get(self.room, ())
        step = (self.width - 12) / max(1, len(inside))
        for number, name in enumerate(inside):
            x, y = self.x + 6 + step * number, self.y + self.height - 25
            yield rectangle(x + 1, y, step - 4, 19, "white")
            yield f'<text x="{x + step / 2 - 1:.1f}" y="{y + 13}" text-anchor="middle">{name}</text>'


def place() -> dict[str, Box]:
    """All boxes; those of a floor share its width, a room with rooms inside has the room of three."""
    boxes: dict[str, Box] = {}
    y = float(MARGIN)
    for _, rooms in FLOORS:
        shares = [2.6 if room in INSIDE else 1.0 for room in rooms]
        room_for_all = WIDTH - LABEL - MARGIN - GAP * (len(rooms) - 1)
        unit = min(room_for_all / sum(shares), 250)
        gap = GAP + (room_for_all - unit * sum(shares)) / (len(rooms) + 1)  # for lines that skip a floor
        x = LABEL + gap - GAP
        floor = []
        for room, share in zip(rooms, shares, strict=True):
            floor.append(Box(room, round(x, 1), round(unit * share, 1)))
            x += unit * share + gap
        height = max(box.height for box in floor)
        for box in floor:
            box.y, box.height = y, height
            boxes[box.room] = box
        y += height + FLOOR_GAP
    return boxes


def line(start: Box, end: Box, offset: tuple[float, float], is_wrong: bool) -> str:
    """A curve from one room down to another, or beside it."""
    colour = WRONG if is_wrong else EDGE
    if start.y == end.y:
        side = start.x if end.x < start.x else start.x + start.width
        other = end.x + end.width if end.x < start.x else end.x
        path = f"M{side:.1f},{start.y + 16:.1f} L{other:.1f},{end.y + 16:.1f}"
    else:
        x0, y0, x1, y1 = offset[0], start.y + start.height, offset[1], end.y
        middle = (y0 + y1) / 2
        path = f"M{x0:.1f},{y0:.1f} C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1 - 2:.1f}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3" marker-end="url(#tip)"/>'


def spread(box: Box, number: int, count: int) -> float:
    """Where the line of this number of a room's lines touches it."""
    return box.x + box.width * (number + 1) / (count + 1)


def lines(edges: Sequence[tuple[str, str]], boxes: Mapping[str, Box]) -> Iterator[str]:
    """All lines, in such an order at each room that few of them cross."""
    out = {room: sorted((b for a, b in edges if a == room), key=lambda b: boxes[b].x) for room in boxes}
    into = {room: sorted((a for a, b in edges if b == room), key=lambda a: boxes[a].x) for room in boxes}
    for room, other in edges:
        x0 = spread(boxes[room], out[room].index(other), len(out[room]))
        x1 = spread(boxes[other], into[other].index(room), len(into[other]))
        yield line(boxes[room], boxes[other], (x0, x1), ORDER.index(other) > ORDER.index(room))


def svg() -> str:
    """The whole drawing."""
    boxes = place()
    height = max(box.y + box.height for box in boxes.values()) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="The rooms of captioner and what each imports">',
        f"<style>text{{font:11px Helvetica,Arial,sans-serif;fill:{INK}}}"
        f".name{{font:bold 13px Menlo,Consolas,monospace}}.floor{{fill:{FAINT};font-style:italic}}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{EDGE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
    ]
    for label, rooms in FLOORS:
        box = boxes[rooms[0]]
        parts.append(f'<text x="{MARGIN - 6}" y="{box.y + 19}" class="floor">{label}</text>')
    parts += lines(direct(between_rooms(graph())), boxes)
    for box in boxes.values():
        parts += box.svg()
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    DRAWING.write_text(svg(), encoding="utf-8")
    print(DRAWING)
