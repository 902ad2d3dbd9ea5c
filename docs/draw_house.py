"""Draws the rooms of the package as the house of `architecture.md`, from the imports in its source.

    python docs/draw_house.py

A room is a folder or a file of `captioner/`; what stands in it is the first sentence of its docstring. A line leads
from a room to one that it imports; lines that follow from others, and those to the ground floor, are left out. What
would run up, or to the right on one floor, is red. `tests/test_rooms.py` reads the same, and allows no red line, no
line behind a room, and no drawing that is out of date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
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
    ("ground", ("types", "tokenizer", "texts", "specs", "configs", "files", "seeds", "devices", "progress", "version")),
)
"""From the top. A room may import those on lower floors, and those to its left on its own."""

ORDER = tuple(room for _, floor in reversed(FLOORS) for room in floor)
"""All rooms, each after those that it may import."""

DOORS = {"__init__", "__main__"}
"""The package's own files, which are in no room."""

INSIDE = {"data": ("images", "shards", "features", "readers", "sources", "batches")}
"""Rooms within a room, in the order in which they may import."""

WIDTH, MARGIN, LABEL, GAP = 1040, 14, 92, 16
TITLE, LINE, LETTER, FLOOR_GAP = 19, 15, 6.35, 46  # heights of a name and of a line of text, the width of a letter
INK, FAINT, EDGE, WRONG = "#1f2933", "#5b6775", "#7b8ea1", "#d64545"
TINTS = ("#fdf3e7", "#f3f0fa", "#eaf3fb", "#e9f6f0", "#f4f6f8", "#ffffff")  # of floors, from the top

Edge = tuple[str, str]
"""A room, and one that it imports."""


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
    """`data/images/opening.py` -> data; the package's own files are its doors."""
    return module.partition("/")[0].removesuffix(".py")


def between_rooms(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each room the rooms that its modules import; the package's doors are left out."""
    found: dict[str, set[str]] = {room: set() for room in ORDER}
    for module, used in edges.items():
        if room_of(module) not in DOORS:
            found[room_of(module)] |= {room_of(other) for other in used} - {room_of(module)} - DOORS
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
    return rest[0].upper() + rest[1:] if colon and len(title) < 18 else sentence


class Box:
    """A room's place in the drawing, in pixels."""

    def __init__(self, room: str, x: float, width: float, tint: str) -> None:
        self.room, self.tint = room, tint
        self.x, self.width = x, width
        self.y = 0.0
        self.lines = wrap(purpose(room), int((width - 18) / LETTER))
        self.height = 12.0 + TITLE + LINE * len(self.lines) + (28 if room in INSIDE else 0)

    def svg(self) -> Iterator[str]:
        """The box with its text."""
        name = self.room if (ROOT / f"{self.room}.py").exists() else f"{self.room}/"
        yield rectangle(self.x, self.y, self.width, self.height, self.tint)
        yield f'<text x="{self.x + 9:.1f}" y="{self.y + 20:.1f}" class="name">{name}</text>'
        for number, text in enumerate(self.lines, start=1):
            yield f'<text x="{self.x + 9:.1f}" y="{self.y + TITLE + LINE * number + 2:.1f}">{escape(text)}</text>'
        inside = INSIDE.get(self.room, ())
        step = (self.width - 12) / max(1, len(inside))
        for number, name in enumerate(inside):
            x, y = self.x + 6 + step * number, self.y + self.height - 29
            yield rectangle(x + 1, y, step - 3, 22, "white")
            yield f'<text x="{x + step / 2 - 0.5:.1f}" y="{y + 15:.1f}" text-anchor="middle">{name}</text>'


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A box with round corners."""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} rx="6" fill="{fill}" stroke="{EDGE}"/>'


def place() -> list[list[Box]]:
    """The boxes of each floor. On one with few rooms they stand apart, so that lines that skip it have a way."""
    floors: list[list[Box]] = []
    y = float(MARGIN)
    for (_, rooms), tint in zip(FLOORS, TINTS, strict=True):
        shares = [3.3 if room in INSIDE else 1.0 for room in rooms]  # a room with rooms inside is wider
        whole = WIDTH - LABEL - MARGIN - GAP * (len(rooms) - 1)
        unit = min(whole / sum(shares), 200)
        apart = (whole - unit * sum(shares)) / (len(rooms) + 1)
        x, floor = LABEL + apart, []
        for room, share in zip(rooms, shares, strict=True):
            floor.append(Box(room, x, unit * share, tint))
            x += unit * share + GAP + apart
        height = max(box.height for box in floor)
        for box in floor:
            box.y, box.height = y, height
        floors.append(floor)
        y += height + FLOOR_GAP
    return floors


def gates(floor: Sequence[Box]) -> list[tuple[float, float]]:
    """Where a line can go through a floor, between its boxes: from x to x."""
    edges = [LABEL - 10.0, *(x for box in floor for x in (box.x, box.x + box.width)), WIDTH - 2.0]
    return [(left + 5, right - 5) for left, right in zip(edges[::2], edges[1::2], strict=True) if right - left > 10]


def ways(edges: Sequence[Edge], floors: Sequence[Sequence[Box]]) -> dict[Edge, list[tuple[float, float]]]:
    """For each line the points that it goes through, from the bottom of a box to the top of another."""
    boxes = {box.room: box for floor in floors for box in floor}
    level = {box.room: number for number, floor in enumerate(floors) for box in floor}
    found: dict[Edge, list[tuple[float, float]]] = {}
    taken: set[tuple[float, float]] = set()  # points that a line goes through already
    for room, other in edges:
        start, end = boxes[room], boxes[other]
        if start.y == end.y:
            left = end.x < start.x
            sides = (start.x, end.x + end.width) if left else (start.x + start.width, end.x)
            between = [box for box in floors[level[room]] if min(sides) < box.x < max(sides)]
            found[room, other] = [(side, start.y + 18) for side in sides]
            if between:  # over their tops
                x, x_end = (box.x + box.width / 2 for box in (start, end))
                found[room, other] = [(x, start.y), (x, start.y - 20), (x_end, end.y - 20), (x_end, end.y)]
            continue
        below = sorted((b for a, b in edges if a == room and boxes[b].y > start.y), key=lambda b: boxes[b].x)
        above = sorted((a for a, b in edges if b == other and boxes[a].y < end.y), key=lambda a: boxes[a].x)
        x = start.x + start.width * (below.index(other) + 1) / (len(below) + 1)
        x_end = end.x + end.width * (above.index(room) + 1) / (len(above) + 1)
        points = [(x, start.y + start.height)]
        for floor in floors[level[room] + 1 : level[other]]:
            share = (floor[0].y - points[0][1]) / (end.y - points[0][1])
            wanted = x + (x_end - x) * share
            gate = min(gates(floor), key=lambda gate: abs(min(max(wanted, gate[0]), gate[1]) - wanted))
            through = min(max(wanted, gate[0]), gate[1])
            while any(y == floor[0].y and abs(x - through) < 8 for x, y in taken):
                through += 8 if through < sum(gate) / 2 else -8
            taken.add((through, floor[0].y))
            points += [(through, floor[0].y), (through, floor[0].y + floor[0].height)]
        found[room, other] = [*points, (x_end, end.y)]
    return found


def curve(points: Sequence[tuple[float, float]], is_wrong: bool) -> str:
    """A line through points, upright at each of them, or level between two of one height."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += (
            f" L{x1:.1f},{y1:.1f}" if y0 == y1 else f" C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
        )
    colour, tip = (WRONG, "wrong") if is_wrong else (EDGE, "tip")
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4" marker-end="url(#{tip})"/>'


def drawn(rooms: Mapping[str, set[str]]) -> list[Edge]:
    """The lines of the drawing: imports that do not follow from others; to the ground floor, those of its own rooms."""
    ground = FLOORS[-1][1]
    return [(room, other) for room, other in direct(rooms) if other not in ground or room in ground]


def svg() -> str:
    """The whole drawing."""
    floors, edges = place(), drawn(between_rooms(graph()))
    height = floors[-1][0].y + floors[-1][0].height + MARGIN
    tip = '<path d="M0,0 L8,4 L0,8 z" fill="{}"/></marker>'
    marker = '<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="The rooms of captioner, and which import which">',
        f"<style>text{{font:12px Helvetica,Arial,sans-serif;fill:{INK}}}"
        f".name{{font:bold 14px Menlo,Consolas,monospace}}.floor{{fill:{FAINT};font-style:italic}}</style>",
        f"<defs>{marker.format('tip')}{tip.format(EDGE)}{marker.format('wrong')}{tip.format(WRONG)}</defs>",
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
    ]
    for (label, _), floor in zip(FLOORS, floors, strict=True):
        for number, word in enumerate(wrap(label, 12)):
            parts.append(f'<text x="{MARGIN - 6}" y="{floor[0].y + 19 + LINE * number}" class="floor">{word}</text>')
    for (room, other), points in ways(edges, floors).items():
        parts.append(curve(points, ORDER.index(other) > ORDER.index(room)))
    for floor in floors:
        for box in floor:
            parts += box.svg()
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    DRAWING.write_text(svg(), encoding="utf-8")
    print(DRAWING)
