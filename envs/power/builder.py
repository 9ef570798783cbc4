"""From branches, shunts and injections to a rooted tree.

Data flow: `from_tables.py`, `from_pandapower.py` -> `NetworkBuilder` -> `Network`. Everything is per unit on 1 MVA.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envs.power.network import Network, Regulator


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One branch between two buses before the tree is rooted, in per unit on 1 MVA.

    The model is `a - y/2 - [ratio : 1] - ... `: a shunt at each end, and between them an ideal ratio at end a
    followed by the series impedance, so that `V_b = V_a / ratio - z I_b`.
    """

    name: str
    a: Hashable
    b: Hashable
    z_pu: complex
    ratio: complex = 1.0
    """V_a / V_b at no load: off-nominal turns, tap and phase shift."""
    y_a_pu: complex = 0.0
    """Shunt at end a, seen at bus a."""
    y_b_pu: complex = 0.0
    rating_pu: float = float("inf")
    is_trafo: bool = False
    regulator: Mapping[str, Any] | None = None
    """Fields of `Regulator` but name and bus; only on branches fed from end a."""

    @classmethod
    def of(
        cls, net: Network, bus: int, *, name: str, a: Hashable, b: Hashable, regulator: Mapping[str, Any] | None = None
    ) -> "Branch":
        """The branch above a bus of a finished tree, from its parent `a` to itself; its shunts are in `net.y_pu`."""
        # V_j = k (V_p - z I) is V_b = V_a / ratio - z_b I_b with ratio = 1 / k and z_b = |k|^2 z
        k = complex(net.ratio[bus])
        return cls(
            name=name,
            a=a,
            b=b,
            z_pu=complex(net.z_pu[bus]) * abs(k) ** 2,
            ratio=1 / k,
            y_a_pu=complex(net.y_parent_pu[bus]),
            y_b_pu=complex(net.y_child_pu[bus]),
            rating_pu=float(net.rating_pu[bus]),
            is_trafo=bool(net.is_trafo[bus]),
            regulator=regulator,
        )


class NetworkBuilder:
    """Collects buses, branches, shunts and injections, then roots the tree. Shared by tables and pandapower."""

    def __init__(self, slack: Hashable, slack_v_pu: complex) -> None:
        self._slack = slack
        self._slack_v_pu = slack_v_pu
        self._base_kv: dict[Hashable, float] = {}
        self._area: dict[Hashable, str] = {}
        self._fused: dict[Hashable, Hashable] = {}
        self._branches: list[Branch] = []
        self._y: dict[Hashable, complex] = {}
        self._load: dict[Hashable, complex] = {}
        self._generation: dict[Hashable, complex] = {}

    def add_bus(self, bus: Hashable, base_kv: float, area: str = "") -> None:
        """Declare a bus with its nominal line-to-line voltage in kV."""
        if not base_kv > 0:
            raise ValueError(f"bus {bus}: nominal voltage must be positive, got {base_kv} kV")
        self._base_kv[bus] = base_kv
        self._area[bus] = area

    def base_kv(self, bus: Hashable) -> float:
        """Nominal voltage of a declared bus.

        Raises:
            ValueError: the bus was not declared.
        """
        if bus not in self._base_kv:
            raise ValueError(f"bus {bus!r} is used by an element but missing from the bus table")
        return self._base_kv[bus]

    def fuse(self, a: Hashable, b: Hashable) -> None:
        """Make one bus of two (a closed switch); the first keeps its name, the slack bus always does."""
        if self.base_kv(a) != self.base_kv(b):
            raise ValueError(f"the closed switch {a}-{b} joins buses of {self.base_kv(a)} and {self.base_kv(b)} kV")
        keep, drop = self._find(a), self._find(b)
        if drop == self._slack:
            keep, drop = drop, keep
        if keep != drop:
            self._fused[drop] = keep

    def add_branch(self, branch: Branch, *, shunts_counted: bool = False) -> None:
        """Add a branch; its end shunts go to the buses unless those of `add_shunt` hold them already."""
        self.base_kv(branch.a)
        self.base_kv(branch.b)
        self._branches.append(branch)
        if not shunts_counted:
            self.add_shunt(branch.a, branch.y_a_pu)
            self.add_shunt(branch.b, branch.y_b_pu)

    def add_shunt(self, bus: Hashable, y_pu: complex) -> None:
        """Add an admittance at a bus (positive imaginary part: capacitive)."""
        self.base_kv(bus)
        self._y[bus] = self._y.get(bus, 0j) + y_pu

    def add_load(self, bus: Hashable, p_mw: float, q_mvar: float) -> None:
        """Add nominal consumption."""
        self.base_kv(bus)
        self._load[bus] = self._load.get(bus, 0j) + complex(p_mw, q_mvar)

    def add_generation(self, bus: Hashable, p_mw: float, q_mvar: float) -> None:
        """Add nominal static generation."""
        self.base_kv(bus)
        self._generation[bus] = self._generation.get(bus, 0j) + complex(p_mw, q_mvar)

    def build(self) -> Network:
        """Root the tree at the slack bus.

        Raises:
            ValueError: a loop (with its buses), a bus without a path to the slack, a regulator fed from behind.
        """
        order, above, parent = self._depth_first()
        position = {bus: i for i, bus in enumerate(order)}
        rows = [_RootedBranch.of(above[bus], self._find(above[bus].a) == parent[bus]) for bus in order[1:]]
        regulators = tuple(
            Regulator(name=row.branch.name, bus=i, **row.branch.regulator)
            for i, row in enumerate(rows, start=1)
            if row.branch.regulator is not None
        )
        load, generation = self._at_buses(self._load, position), self._at_buses(self._generation, position)
        return Network(
            bus_index=tuple(order),
            parent=torch.tensor([0] + [position[parent[bus]] for bus in order[1:]]),
            subtree_end=torch.tensor(_subtree_ends([0] + [position[parent[bus]] for bus in order[1:]])),
            z_pu=torch.tensor([0j] + [row.z_pu for row in rows], dtype=torch.complex128),
            ratio=torch.tensor([1 + 0j] + [row.ratio for row in rows], dtype=torch.complex128),
            y_pu=self._at_buses(self._y, position),
            y_parent_pu=torch.tensor([0j] + [complex(row.y_parent_pu) for row in rows], dtype=torch.complex128),
            y_child_pu=torch.tensor([0j] + [complex(row.y_child_pu) for row in rows], dtype=torch.complex128),
            base_kv=torch.tensor([self._base_kv[bus] for bus in order], dtype=torch.float64),
            rating_pu=torch.tensor([float("inf")] + [row.rating_pu for row in rows], dtype=torch.float64),
            is_trafo=torch.tensor([False] + [row.branch.is_trafo for row in rows]),
            branch_names=("", *(row.branch.name for row in rows)),
            slack_v_pu=self._slack_v_pu,
            regulators=regulators,
            load_p_mw=load.real.clone(),
            load_q_mvar=load.imag.clone(),
            generation_p_mw=generation.real.clone(),
            generation_q_mvar=generation.imag.clone(),
            areas=tuple(self._area[bus] for bus in order),
            alias={bus: position[self._find(bus)] for bus in self._base_kv},
        )

    def _find(self, bus: Hashable) -> Hashable:
        while bus in self._fused:
            bus = self._fused[bus]
        return bus

    def _at_buses(self, values: Mapping[Hashable, complex], position: Mapping[Hashable, int]) -> Tensor:
        total = torch.zeros(len(position), dtype=torch.complex128)
        for bus, value in values.items():
            total[position[self._find(bus)]] += value
        return total

    def _depth_first(self) -> tuple[list[Hashable], dict[Hashable, Branch], dict[Hashable, Hashable]]:
        """Buses in depth-first order, the branch above each, and each one's parent."""
        if self._slack not in self._base_kv:
            raise ValueError(
                f"the source bus {self._slack!r} is missing from the bus table; add it to bus.csv, or correct "
                "source.csv"
            )
        neighbours: dict[Hashable, list[Branch]] = {self._find(bus): [] for bus in self._base_kv}
        for branch in self._branches:
            neighbours[self._find(branch.a)].append(branch)
            neighbours[self._find(branch.b)].append(branch)
        order: list[Hashable] = []
        above: dict[Hashable, Branch] = {}
        parent: dict[Hashable, Hashable] = {}
        stack: list[tuple[Hashable, Branch | None, Hashable]] = [(self._slack, None, None)]
        while stack:
            bus, branch, source = stack.pop()
            if bus in parent:
                raise ValueError(_loop_message(bus, source, parent))
            parent[bus] = source
            order.append(bus)
            if branch is not None:
                above[bus] = branch
            for other in reversed(neighbours[bus]):
                if other is not branch:
                    ends = self._find(other.a), self._find(other.b)
                    stack.append((ends[1] if ends[0] == bus else ends[0], other, bus))
        missing = [str(bus) for bus in neighbours if bus not in parent]
        if missing:
            raise ValueError(f"no path from source bus {self._slack} to bus {', '.join(missing)}; connect or remove it")
        return order, above, parent


@dataclass(frozen=True)
class _RootedBranch:
    """A branch seen from its parent end: z before an ideal ratio k = V_child / V_parent, and its own end shunts."""

    branch: Branch
    z_pu: complex
    ratio: complex
    rating_pu: float
    y_parent_pu: complex
    y_child_pu: complex

    @classmethod
    def of(cls, branch: Branch, fed_from_a: bool) -> "_RootedBranch":
        ratio = complex(branch.ratio)
        if fed_from_a:  # V_b = V_a / ratio - z I_b  =  (V_a - z |ratio|^2 I_a) / ratio
            z_pu = branch.z_pu * abs(ratio) ** 2
            return cls(branch, z_pu, 1 / ratio, branch.rating_pu, branch.y_a_pu, branch.y_b_pu)
        if branch.regulator is not None:
            raise ValueError(f"regulator {branch.name} is fed from its secondary side; swap its buses")
        return cls(branch, branch.z_pu, ratio, branch.rating_pu, branch.y_b_pu, branch.y_a_pu)


def _loop_message(bus: Hashable, source: Hashable, parent: Mapping[Hashable, Hashable]) -> str:
    def to_slack(start: Hashable) -> list[Hashable]:
        path = [start]
        while parent.get(path[-1]) is not None:
            path.append(parent[path[-1]])
        return path

    one, two = to_slack(source), to_slack(bus)
    shared = next(b for b in one if b in two)
    loop = [*one[: one.index(shared) + 1], *reversed(two[: two.index(shared)])]
    names = " - ".join(map(str, [*loop, loop[0]]))
    return f"the network is meshed: {names} is a loop; open a switch or take one of its branches out of service"


def _subtree_ends(parent: list[int]) -> list[int]:
    end = [i + 1 for i in range(len(parent))]
    for i in range(len(parent) - 1, 0, -1):
        end[parent[i]] = max(end[parent[i]], end[i])
    return end
