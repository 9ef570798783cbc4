"""Network: a radial tree in per unit on 1 MVA.

Data flow: tables or pandapower -> `NetworkBuilder` -> `Network` -> `flow.py`. Buses stand in depth-first order, the
slack bus first, so a subtree is a contiguous range. Branch j is the one above bus j: impedance z on the parent
side of an ideal ratio k, `V_j = k (V_parent - z I)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BASE_MVA = 1.0


@dataclass(frozen=True, kw_only=True)
class Regulator:
    """An automatic tap changer on branch `bus`, holding that bus's own voltage."""

    name: str
    bus: int
    target_pu: float
    half_band_pu: float
    step_pu: float
    tap_min: int
    tap_max: int


@dataclass(frozen=True, eq=False)
class Network:
    """A radial network of N buses; all tensors float64 or complex128 on the CPU. Immutable."""

    bus_index: tuple[Any, ...]
    """(N,) the source's bus ids, the order of every (B, N) tensor; the slack bus is first."""
    parent: Tensor  # (N,) int64; the slack bus is its own parent
    subtree_end: Tensor  # (N,) int64: the subtree of bus j is j .. subtree_end[j] - 1
    z_pu: Tensor  # (N,) complex: series impedance above each bus, on the parent side of the ratio; 0 at the slack
    ratio: Tensor  # (N,) complex: V_j / V_parent at no load with neutral taps
    y_pu: Tensor  # (N,) complex: charging and capacitors
    y_parent_pu: Tensor  # (N,) complex: of `y_pu` at the parent, what belongs to the branch above each bus
    y_child_pu: Tensor  # (N,) complex: of `y_pu` at the bus itself, what belongs to the branch above it
    base_kv: Tensor  # (N,)
    rating_pu: Tensor  # (N,) current rating of the branch above each bus; inf at the slack and where unknown
    is_trafo: Tensor  # (N,) bool
    branch_names: tuple[str, ...]
    slack_v_pu: complex
    regulators: tuple[Regulator, ...]  # from head to leaf
    load_p_mw: Tensor  # (N,) nominal consumption
    load_q_mvar: Tensor  # (N,)
    generation_p_mw: Tensor  # (N,) nominal static generation
    generation_q_mvar: Tensor  # (N,)
    areas: tuple[str, ...]
    """(N,) area of each bus; empty strings for a network that is not composed."""
    alias: Mapping[Any, int] = field(default_factory=dict)
    """Bus id -> position, buses fused by closed switches included."""

    @classmethod
    def from_tables(cls, path: str | Path) -> "Network":
        """Read a folder of CSV tables (see `envs/data/networks/README.md`).

        Raises:
            ValueError: missing files or columns, a loop (named), a disconnected bus.
        """
        from envs.power.from_tables import network_from_tables  # noqa: PLC0415 - it builds this class
        from envs.power.tables import read_tables  # noqa: PLC0415

        return network_from_tables(read_tables(path))

    @classmethod
    def from_pandapower(
        cls,
        net: Any,
        *,
        ext_grid: int | str | None = None,
        regulators: Mapping[Any, tuple[float, float]] | None = None,
    ) -> "Network":
        """Convert a radial pandapower network (docs/own-grid.md).

        Args:
            net: a pandapower net; bus ids of the result are its bus indices.
            ext_grid: index or name of the external grid whose tree is wanted, where several are in service. Buses of
                the other trees, and everything at them, are left out.
            regulators: transformer (index or name) -> (target_pu, deadband_pu): its lv tap changer becomes automatic;
                all others keep their tap position.

        Raises:
            ValueError: what the model cannot hold, by name and with the remedy.
        """
        from envs.power.from_pandapower import network_from_pandapower  # noqa: PLC0415 - pandapower is heavy

        return network_from_pandapower(net, ext_grid=ext_grid, regulators=regulators)

    @property
    def num_buses(self) -> int:
        """N, the slack bus included."""
        return len(self.bus_index)

    @cached_property
    def area_starts(self) -> Mapping[str, int]:
        """Area -> position of its first bus; above a microgrid's is the branch to the feeder."""
        starts: dict[str, int] = {}
        for bus, area in enumerate(self.areas):
            starts.setdefault(area, bus)
        return starts

    def position(self, bus: Any) -> int:
        """Position of a bus id in every (B, N) tensor.

        Raises:
            ValueError: no such bus.
        """
        if bus not in self.alias:
            raise ValueError(f"bus {bus!r} is not in the network; buses are {', '.join(map(str, self.bus_index))}")
        return self.alias[bus]

    def nominal_injections(self) -> tuple[Tensor, Tensor]:
        """Nominal p_mw and q_mvar, each (N,) float64, generation positive."""
        return self.generation_p_mw - self.load_p_mw, self.generation_q_mvar - self.load_q_mvar

    def below(self, buses: Tensor) -> Tensor:
        """(n, N) bool: whether each bus lies in the subtree of each of `buses` (n,), itself included."""
        position = torch.arange(self.num_buses)
        return (position >= buses[:, None]) & (position < self.subtree_end[buses][:, None])

    def path_sums(self, values: Tensor) -> Tensor:
        """(N,) sum of `values` (N,) over the path from the slack bus to each bus, both included."""
        sums = values.clone()
        for bus, parent in enumerate(self.parent.tolist()[1:], start=1):
            sums[bus] += sums[parent]
        return sums
