"""The operating points that power flows are timed at, and how far a solution of them is off.

Data flow: scenario -> `flow_case` -> stages power-flow and peers.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from envs.composition import scenario_tables
from envs.power import Network, solve_power_flow
from envs.power.from_tables import network_from_tables
from envs.power.tables import Load, Tables
from envs.scenario import load_scenario

HIGHEST_LEVEL = 0.9  # of nominal load, for a whole copy
LEAST_SHARE = 0.5  # of a load in the level of its copy
EXACT_PU = 1e-10
CLOSE_PU = 2e-5
FAST_PU = 3e-5
"""Tolerance in float32 and float64 that keeps voltages within `CLOSE_PU`, with a margin of a fifth.

At most 1.64e-5 over loads that all stand at one level up to 1.3 times nominal, at any taps; 5e-5 reaches 2.4e-5.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowCase:
    """One network as tables and as ours, and B operating points of it: one load at each of n buses, neutral taps.

    Closed switches are taken out of the tables, because not every peer knows them.
    """

    tables: Tables
    net: Network
    load_buses: list[int]  # (n,) positions in `net`, in the order of `tables.loads`
    loads_p_mw: Tensor  # (B, n) float64
    loads_q_mvar: Tensor  # (B, n) float64

    @property
    def copies(self) -> int:
        """B."""
        return len(self.loads_p_mw)

    def injections(self, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(B, N) MW and MVAr, generation positive."""
        return self._at_buses(self.loads_p_mw).to(device, dtype), self._at_buses(self.loads_q_mvar).to(device, dtype)

    def exact(self) -> Tensor:
        """(B, N) complex128 voltages in pu, float64 to 1e-10 pu."""
        p_mw, q_mvar = self.injections("cpu", torch.float64)
        return solve_power_flow(self.net, p_mw, q_mvar, tolerance_pu=EXACT_PU).v_pu

    def bus_positions(self) -> list[int]:
        """Position in `net` of each bus of the tables, in their order."""
        return [self.net.position(name) for name in self.tables.bus_kv]

    def _at_buses(self, loads: Tensor) -> Tensor:
        injections = torch.zeros(len(loads), self.net.num_buses, dtype=torch.float64)
        injections[:, self.load_buses] = -loads
        return injections


def flow_case(scenario: str, copies: int) -> FlowCase:
    """Each copy at a level uniform in 0 .. 0.9, each of its loads at a share of nominal uniform in level / 2 .. level.

    Voltages of the default scenario at neutral taps stay above 0.8 pu, below which our loads draw constant impedance
    and those of other libraries do not.

    Args:
        scenario: name or file, of table networks.
        copies: B.

    Raises:
        ValueError: as `scenario_tables`.
    """
    tables = without_switches(scenario_tables(load_scenario(scenario)))
    net = network_from_tables(tables)
    nominal_p_mw, nominal_q_mvar = net.nominal_injections()
    buses = torch.nonzero((nominal_p_mw != 0) | (nominal_q_mvar != 0)).flatten()
    p_mw, q_mvar = -nominal_p_mw[buses], -nominal_q_mvar[buses]
    loads = tuple(
        Load(name=str(net.bus_index[bus]), bus=net.bus_index[bus], p_mw=p, q_mvar=q)
        for bus, p, q in zip(buses.tolist(), p_mw.tolist(), q_mvar.tolist(), strict=True)
    )
    generator = torch.Generator().manual_seed(0)
    level = HIGHEST_LEVEL * torch.rand(copies, 1, generator=generator, dtype=torch.float64)
    share = LEAST_SHARE + (1 - LEAST_SHARE) * torch.rand(copies, len(buses), generator=generator, dtype=torch.float64)
    return FlowCase(
        tables=replace(tables, loads=loads),
        net=net,
        load_buses=buses.tolist(),
        loads_p_mw=level * share * p_mw,
        loads_q_mvar=level * share * q_mvar,
    )


def without_switches(tables: Tables) -> Tables:
    """The same network with one bus for the two of each closed switch."""
    same = {name: name for name in tables.bus_kv}
    for switch in tables.switches:
        if switch.closed:
            kept, merged = same[switch.bus_a], same[switch.bus_b]
            same = {name: kept if bus == merged else bus for name, bus in same.items()}
    return replace(
        tables,
        source_bus=same[tables.source_bus],
        bus_kv={name: kv for name, kv in tables.bus_kv.items() if same[name] == name},
        areas={name: area for name, area in tables.areas.items() if same[name] == name},
        lines=tuple(replace(row, from_bus=same[row.from_bus], to_bus=same[row.to_bus]) for row in tables.lines),
        trafos=tuple(replace(row, hv_bus=same[row.hv_bus], lv_bus=same[row.lv_bus]) for row in tables.trafos),
        loads=tuple(replace(row, bus=same[row.bus]) for row in tables.loads),
        capacitors=tuple(replace(row, bus=same[row.bus]) for row in tables.capacitors),
        switches=(),
    )


def largest_error(v_pu: Tensor | np.ndarray, exact: Tensor) -> float:
    """Largest |dV| in pu over copies and buses, complex; infinite where a voltage is not finite."""
    if isinstance(v_pu, Tensor):
        v_pu = v_pu.cpu()
    difference = (torch.tensor(np.asarray(v_pu)).to(torch.complex128) - exact).abs().max().item()
    return difference if np.isfinite(difference) else float("inf")
