"""Where the buses of a one-line diagram stand.

Data flow: `Network` -> `layout` -> `plot.py`. Everything stands on a grid: columns count branches from the slack bus,
rows go up. The longest path of a tree runs straight; what branches off it, microgrids too, rises in its bus's column to
the nearest rows that are free. Placed from the right, no two branches cross.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from envs.power.network import Network

Cell = tuple[int, int]
NAME_COLUMNS = 3  # that a microgrid's name needs


@dataclass(frozen=True)
class Layout:
    """Columns and rows of a diagram."""

    xy: dict[int, Cell]  # bus position -> column and row
    titles: dict[str, Cell]  # microgrid -> where its name stands

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Lowest and highest column, lowest and highest row."""
        cells = [*self.xy.values(), *self.titles.values()]
        columns, rows = [x for x, _ in cells], [y for _, y in cells]
        return min(columns), max(columns), min(rows), max(rows)


@dataclass
class _Shape:
    """A subtree that starts at (0, 0), with its first bus at (1, 0), and grows to the right and to higher rows."""

    xy: dict[int, Cell] = field(default_factory=dict)
    titles: dict[str, Cell] = field(default_factory=dict)
    cells: set[Cell] = field(default_factory=set)  # taken by buses, lines and names

    def add(self, other: "_Shape", column: int) -> None:
        """Hang another shape on the bus in a column of row 0, in the nearest free rows."""
        # risers in this column belong to the same bus, and may be one
        taken = {cell for cell in self.cells if cell[0] != column}
        row = next(row for row in count(1) if taken.isdisjoint(_moved(other.cells, column, row)))
        self.cells |= _moved(other.cells, column, row) | {(column, step) for step in range(1, row + 1)}
        self.xy |= {bus: (x + column, y + row) for bus, (x, y) in other.xy.items()}
        self.titles |= {name: (x + column, y + row) for name, (x, y) in other.titles.items()}

    @property
    def height(self) -> int:
        """Rows above the first."""
        return max(y for _, y in self.cells)


def layout(net: Network, feeder_name: str) -> Layout:
    """Place every bus of a scenario's network.

    Args:
        net: of the scenario.
        feeder_name: area of the feeder's buses; each other area is a microgrid.
    """
    children: list[list[int]] = [[] for _ in range(net.num_buses)]
    for j in range(1, net.num_buses):
        children[int(net.parent[j])].append(j)
    xy: dict[int, Cell] = {}
    titles: dict[str, Cell] = {}
    next_row = 0  # feeders stand below each other
    for head in children[0]:
        up, down = _halves(net, head, children, feeder_name)
        row = next_row - up.height
        xy |= {bus: (x, row + y) for bus, (x, y) in up.xy.items()} | {b: (x, row - y) for b, (x, y) in down.xy.items()}
        titles |= {name: (x, row + y) for name, (x, y) in up.titles.items()}
        titles |= {name: (x, row - y) for name, (x, y) in down.titles.items()}
        next_row = row - down.height - 2
    heads = [xy[head][1] for head in children[0]] or [0]
    return Layout({0: (0, (max(heads) + min(heads)) // 2), **xy}, titles)


def _halves(net: Network, head: int, children: list[list[int]], feeder_name: str) -> tuple[_Shape, _Shape]:
    """What stands on and above a feeder's longest path, and what below it."""
    if net.areas[head] != feeder_name:  # a microgrid right at the substation
        return _subtree(net, head, children, feeder_name), _chain([])
    path = _longest(net, head, children)
    up, down = _chain(path), _chain(path)
    for column, child in _branches(path, children):
        shape = _subtree(net, child, children, feeder_name)
        lower = min((up, down), key=lambda half: _reach(half, column, shape))
        lower.add(shape, column)
    return up, down


def _reach(half: _Shape, column: int, shape: _Shape) -> int:
    """Height that a half would have from this column on, with the shape."""
    trial = _Shape(cells=set(half.cells))
    trial.add(_Shape(cells=shape.cells), column)
    return max(y for x, y in trial.cells if x >= column)


def _subtree(net: Network, head: int, children: list[list[int]], feeder_name: str) -> _Shape:
    """A branch with everything behind it; a microgrid is a rectangle with its name on top."""
    path = _longest(net, head, children)
    shape = _chain(path)
    for column, child in _branches(path, children):
        shape.add(_subtree(net, child, children, feeder_name), column)
    name = net.areas[head]
    if name != feeder_name and net.areas[int(net.parent[head])] == feeder_name:
        width, top = max(*(x for x, _ in shape.cells), NAME_COLUMNS), shape.height + 1
        shape.titles[name] = (1, top)
        shape.cells = {(x, y) for x in range(1, width + 1) for y in range(top + 1)}
    return shape


def _chain(path: list[int]) -> _Shape:
    """Buses side by side, and a free column behind them."""
    xy = {bus: (column, 0) for column, bus in enumerate(path, start=1)}
    return _Shape(xy=xy, cells={(column, 0) for column in range(len(path) + 2)})


def _branches(path: list[int], children: list[list[int]]) -> Iterable[tuple[int, int]]:
    """Column of a path's bus and first bus of what branches off there, from the right."""
    for column in range(len(path), 0, -1):
        for child in children[path[column - 1]]:
            if child not in path[column : column + 1]:
                yield column, child


def _longest(net: Network, head: int, children: list[list[int]]) -> list[int]:
    """The longest path down from a bus within its own area."""
    depth: dict[int, int] = {}
    for bus in range(int(net.subtree_end[head]) - 1, head - 1, -1):  # depth-first order: children come later
        depth[bus] = 1 + max((depth[c] for c in children[bus] if net.areas[c] == net.areas[head]), default=0)
    path = [head]
    while own := [c for c in children[path[-1]] if net.areas[c] == net.areas[head]]:
        path.append(max(own, key=depth.__getitem__))
    return path


def _moved(cells: Iterable[Cell], columns: int, rows: int) -> set[Cell]:
    return {(x + columns, y + rows) for x, y in cells}
