"""What a pandapower net connects with what: the tree of one external grid, or an error that names the way out.

Data flow: checked pandapower net -> `Topology` -> `from_pandapower.py`. Links are what conducts: lines and transformers
in service between buses in service with every switch closed, and closed switches between two buses.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from envs.power.pandapower_tables import in_service, is_named, label

_SWITCHED = {"l": "line", "t": "trafo"}
ENDS = {"line": ("from_bus", "to_bus"), "trafo": ("hv_bus", "lv_bus")}


class Link(NamedTuple):
    """A closed connection of two buses."""

    kind: str  # line, trafo or switch
    element: int
    a: int
    b: int
    label: str

    def other(self, bus: int) -> int:
        """The bus at the other end."""
        return self.b if bus == self.a else self.a


class Route(NamedTuple):
    """Buses in order and the links between them; a loop ends at its first bus."""

    buses: list[int]
    links: list[Link]

    def __str__(self) -> str:
        steps = [f"{link.label} - bus {bus}" for link, bus in zip(self.links, self.buses[1:], strict=True)]
        return " - ".join([f"bus {self.buses[0]}", *steps])


class Topology:
    """The links of a net. Raises ValueError for a switch at a bus or element that it cannot belong to."""

    def __init__(self, net: Any) -> None:
        self._net = net
        self.buses = {int(bus): None for bus in in_service(net.bus).index}  # an ordered set
        self.open_ends = {kind: _open_ends(net, et, kind) for et, kind in _SWITCHED.items()}
        self.switches = [
            Link("switch", int(row.Index), int(row.bus), int(row.element), label("switch", row))
            for row in net.switch[(net.switch.et == "b") & net.switch.closed.astype(bool)].itertuples()
            if {row.bus, row.element} <= self.buses.keys() and row.bus != row.element
        ]
        self._fusing: dict[int, list[Link]] = _neighbours(self.switches)
        self.node = self._fused()
        self._twins: dict[tuple[Any, ...], list[Link]] = {}
        for link in self._branches():
            self._twins.setdefault((link.kind, frozenset((self.node[link.a], self.node[link.b]))), []).append(link)
        # of branches in parallel one stands for all: they are merged later
        first = [link for links in self._twins.values() for link in (links[:1] if self._joins(links[0]) else links)]
        self._neighbours = _neighbours([*_spanning(self.switches), *first])

    def tree(self, ext_grid: int | str | None) -> tuple[Any, set[int]]:
        """The external grid (a row of `net.ext_grid`) and the buses that it supplies.

        Raises:
            ValueError: no external grid or several and none chosen, a bus without supply, a connection to another
                external grid, a loop.
        """
        grids = [row for row in in_service(self._net.ext_grid).itertuples() if row.bus in self.buses]
        grid = _chosen(grids, ext_grid)
        self._check_supply(grids)
        above = self._search(int(grid.bus))
        for other in grids:
            if other.Index != grid.Index and other.bus in above:
                self._refuse_second_source(grid, other, above)
        chords = self._chords(above)
        if chords:
            loop = self._loop(chords[0], above)
            count = f" (1 of {len(chords)} loops)" if len(chords) > 1 else ""
            raise ValueError(
                f"the network is meshed: {loop} is a loop{count}; {self._way_out(loop, loop.links.index(chords[0]))}"
            )
        return grid, set(above)

    def _branches(self) -> Iterator[Link]:
        for kind, (one, two) in ENDS.items():
            for row in in_service(self._net[kind]).itertuples():
                a, b = int(getattr(row, one)), int(getattr(row, two))
                if {a, b} <= self.buses.keys() and not self.open_ends[kind].get(int(row.Index)):
                    yield Link(kind, int(row.Index), a, b, label(kind, row))

    def _joins(self, link: Link) -> bool:
        return self.node[link.a] != self.node[link.b]

    def _fused(self) -> dict[int, int]:
        """Bus -> one bus that stands for all that closed switches make of it."""
        node: dict[int, int] = {}
        for bus in self.buses:
            if bus not in node:
                node |= dict.fromkeys(_reach(bus, self._fusing), bus)
        return node

    def _search(self, root: int) -> dict[int, Link | None]:
        """Every bus that `root` supplies and the link that it is reached by, breadth first."""
        return _reach(root, self._neighbours)

    def _chords(self, above: Mapping[int, Link | None]) -> list[Link]:
        used = {(link.kind, link.element) for link in above.values() if link is not None}
        found = {(link.kind, link.element): link for bus in above for link in self._neighbours.get(bus, [])}
        return [link for key, link in found.items() if key not in used]

    def _check_supply(self, grids: list[Any]) -> None:
        supplied: set[int] = set()
        for grid in grids:
            supplied |= set() if grid.bus in supplied else set(self._search(int(grid.bus)))
        dark = [bus for bus in self.buses if bus not in supplied]
        if dark:
            shown = ", ".join(map(str, dark[:20])) + (f" and {len(dark) - 20} more" if len(dark) > 20 else "")
            raise ValueError(
                f"no external grid supplies bus {shown}; close a switch towards it, or set bus.in_service to False"
            )

    def _refuse_second_source(self, grid: Any, other: Any, above: Mapping[int, Link | None]) -> None:
        route = _from_root(int(other.bus), above)
        way = self._way_out(route, len(route.links) // 2) + ", or " if route.links else ""
        raise ValueError(
            f"{_grid_label(grid)} is connected to {_grid_label(other)}: {route}; {way}set ext_grid.in_service of one "
            "of them to False"
        )

    def _loop(self, chord: Link, above: Mapping[int, Link | None]) -> Route:
        """From the bus of the loop nearest to the source along both arms of the search to `chord`."""
        one, two = _from_root(chord.a, above), _from_root(chord.b, above)
        shared = sum(a == b for a, b in zip(one.buses, two.buses, strict=False)) - 1
        back = Route(two.buses[shared:][::-1], two.links[shared:][::-1])
        return Route(one.buses[shared:] + back.buses, [*one.links[shared:], chord, *back.links])

    def _way_out(self, route: Route, preferred: int) -> str:
        """The switch to open so that the route breaks, near a position in it; without one the branch to take out."""
        near = sorted(range(len(route.links)), key=lambda i: abs(i - preferred))
        for link in (route.links[i] for i in near):
            if link.kind == "switch":
                if link.b not in _reach(link.a, _neighbours([s for s in self.switches if s.element != link.element])):
                    return f"open {link.label}"
                continue
            rows, et = self._net.switch, {"line": "l", "trafo": "t"}[link.kind]
            at = rows[(rows.et == et) & (rows.element == link.element) & rows.bus.isin([link.a, link.b])]
            if len(at) and len(self._parallel(link)) == 1:
                switch = next(at.itertuples())
                return f"open {label('switch', switch)} of {link.label} at bus {switch.bus}"
        branches = [route.links[i] for i in near if route.links[i].kind != "switch"]
        if not branches:
            return "open the switches between them"
        names = " and ".join(link.label for link in self._parallel(branches[0]))
        return f"no single switch can part it: take {names} out of service"

    def _parallel(self, link: Link) -> list[Link]:
        """The link and those in parallel with it, which are merged; one that a closed switch bridges stands alone."""
        twins = self._twins[link.kind, frozenset((self.node[link.a], self.node[link.b]))]
        return twins if self._joins(link) else [link]


def _chosen(grids: list[Any], ext_grid: int | str | None) -> Any:
    if not grids:
        raise ValueError("the network has no external grid in service; add one with pandapower.create_ext_grid")
    names = ", ".join(map(_grid_label, grids))
    if ext_grid is None:
        if len(grids) > 1:
            raise ValueError(
                f"several external grids are in service: {names}; choose the tree of one with "
                f"ext_grid={grids[0].Index}, or set ext_grid.in_service of the others to False"
            )
        return grids[0]
    found = [grid for grid in grids if ext_grid in (grid.Index, grid.name if is_named(grid) else None)]
    if len(found) != 1:
        count = "is none" if not found else f"is the name of {len(found)}"
        raise ValueError(f"ext_grid={ext_grid!r} {count} of the external grids in service; they are {names}")
    return found[0]


def _grid_label(grid: Any) -> str:
    return f"{label('ext_grid', grid)} at bus {grid.bus}"


def _open_ends(net: Any, et: str, kind: str) -> dict[int, set[int]]:
    """Element -> its buses with an open switch; every switch must sit at an end of its element."""
    ends: dict[int, set[int]] = {}
    for switch in net.switch[net.switch.et == et].itertuples():
        element = int(switch.element)
        if element not in net[kind].index:
            raise ValueError(f"{label('switch', switch)} belongs to {kind} {element}, which does not exist; remove it")
        buses = [int(net[kind].at[element, column]) for column in ENDS[kind]]
        if switch.bus not in buses:
            raise ValueError(
                f"{label('switch', switch)} sits at bus {switch.bus}, but {kind} {element} ends at buses {buses[0]} "
                f"and {buses[1]}; correct switch.bus"
            )
        if not switch.closed:
            ends.setdefault(element, set()).add(int(switch.bus))
    return ends


def _neighbours(links: list[Link]) -> dict[int, list[Link]]:
    found: dict[int, list[Link]] = {}
    for link in links:
        found.setdefault(link.a, []).append(link)
        if link.b != link.a:
            found.setdefault(link.b, []).append(link)
    return found


def _reach(root: int, neighbours: Mapping[int, list[Link]]) -> dict[int, Link | None]:
    """Buses connected to `root`, breadth first, each with the link that it is reached by."""
    above: dict[int, Link | None] = {root: None}
    queue = deque([root])
    while queue:
        bus = queue.popleft()
        for link in neighbours.get(bus, []):
            if link.other(bus) not in above:
                above[link.other(bus)] = link
                queue.append(link.other(bus))
    return above


def _spanning(switches: list[Link]) -> list[Link]:
    """The switches without those that close a circle of switches: such a circle is still one bus."""
    neighbours, seen, kept = _neighbours(switches), set(), {}
    for root in neighbours:
        if root not in seen:
            above = _reach(root, neighbours)
            seen |= set(above)
            kept |= {link.element: link for link in above.values() if link is not None}
    return list(kept.values())


def _from_root(bus: int, above: Mapping[int, Link | None]) -> Route:
    buses, links = [bus], []
    while (link := above[buses[-1]]) is not None:
        links.append(link)
        buses.append(link.other(buses[-1]))
    return Route(buses[::-1], links[::-1])
