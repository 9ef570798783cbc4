"""Convert a radial pandapower network to a `Network`; docs/own-grid.md is the user's page.

Supported: lines (parallel, shunt conductance), two-winding transformers (off-nominal, phase shift, tap changers,
parallel, magnetising branch as pandapower's T model with its leakage split as given), shunts, constant-power loads,
static generators, closed and open switches, elements out of service, one external grid or the tree of one of them.
Every other element table is refused by name (`pandapower_tables.py`), a loop with the switch to open
(`pandapower_topology.py`). Tap positions are taken as they stand and pandapower's controllers do not act; `regulators`
turns tap changers into automatic ones.
"""

from cmath import exp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf, isnan, pi, radians
from typing import Any

from envs.power.builder import Branch, NetworkBuilder
from envs.power.network import BASE_MVA, Network
from envs.power.pandapower_tables import check_tables, in_service, is_named, label
from envs.power.pandapower_topology import ENDS, Topology
from envs.power.pandapower_trafos import trafo_branch

Regulators = Mapping[Any, tuple[float, float]]


def network_from_pandapower(
    net: Any, *, ext_grid: int | str | None = None, regulators: Regulators | None = None
) -> Network:
    """Convert `net`; bus ids of the result are pandapower's bus indices.

    Args:
        net: a pandapower net (3.x). It is not changed, and needs no results.
        ext_grid: index or name of the external grid whose tree is wanted; may be None where one alone is in service.
            Buses of the other trees, and everything at them, are left out.
        regulators: transformer (index or name) -> (target_pu, deadband_pu): its tap changer holds the voltage of its lv
            bus within half the deadband (full width) of the target. It must be a Ratio tap changer on the lv side. Taps
            of the result count from `tap_neutral`, and `tap_pos` is not used.

    Raises:
        ValueError: an unsupported element (named), a loop, a bus without supply, no external grid or several without a
            choice, or two that are connected.
    """
    check_tables(net)
    topology = Topology(net)
    grid, buses = topology.tree(ext_grid)
    builder = NetworkBuilder(int(grid.bus), complex(grid.vm_pu * exp(1j * radians(grid.va_degree))))
    for bus in (bus for bus in topology.buses if bus in buses):
        builder.add_bus(bus, float(net.bus.at[bus, "vn_kv"]))
    for switch in topology.switches:
        if switch.a in buses:
            builder.fuse(switch.a, switch.b)
    branches = [*_lines(net, builder, topology, buses), *_trafos(net, builder, topology, buses, regulators or {})]
    for branch in _merged(branches, topology.node):
        builder.add_branch(branch)
    for shunt in _at(net.shunt, buses):
        rated_kv = float(net.bus.at[shunt.bus, "vn_kv"] if isnan(shunt.vn_kv) else shunt.vn_kv)
        s_mva = complex(shunt.p_mw, shunt.q_mvar) * shunt.step * (builder.base_kv(int(shunt.bus)) / rated_kv) ** 2
        builder.add_shunt(int(shunt.bus), s_mva.conjugate() / BASE_MVA)
    for load in _at(net.load, buses):
        builder.add_load(int(load.bus), load.p_mw * load.scaling, load.q_mvar * load.scaling)
    for sgen in _at(net.sgen, buses):
        builder.add_generation(int(sgen.bus), sgen.p_mw * sgen.scaling, sgen.q_mvar * sgen.scaling)
    return builder.build()


def _at(table: Any, buses: set[int]) -> Any:
    return in_service(table[table.bus.isin(buses)]).itertuples()


def _lines(net: Any, builder: NetworkBuilder, topology: Topology, buses: set[int]) -> Iterator[Branch]:
    for line in in_service(net.line).itertuples():
        ends = [int(getattr(line, column)) for column in ENDS["line"]]
        open_at = topology.open_ends["line"].get(int(line.Index), set())
        live = [bus for bus in ends if bus in buses and bus not in open_at]
        if not live:
            continue
        from_kv = float(net.bus.at[ends[0], "vn_kv"])  # as in pandapower, also where the other end's differs
        z_base = from_kv**2 / BASE_MVA
        length = line.length_km
        z = complex(line.r_ohm_per_km, line.x_ohm_per_km) * length / line.parallel / z_base
        y_siemens = complex(line.g_us_per_km * 1e-6, 2 * pi * net.f_hz * line.c_nf_per_km * 1e-9)
        half = y_siemens * length * line.parallel * z_base / 2
        if len(live) == 1:  # charged from one end: the open end's half in series with the line
            builder.add_shunt(live[0], half + half / (1 + z * half))
            continue
        rating = 3**0.5 * from_kv * line.max_i_ka * line.df * line.parallel / BASE_MVA
        rating = inf if isnan(rating) else rating  # NaN: unknown
        name = line.name if is_named(line) else f"line {line.Index}"
        yield Branch(name=name, a=ends[0], b=ends[1], z_pu=z, y_a_pu=half, y_b_pu=half, rating_pu=rating)


def _trafos(
    net: Any, builder: NetworkBuilder, topology: Topology, buses: set[int], regulators: Regulators
) -> Iterator[Branch]:
    wanted = dict(regulators)
    for trafo in in_service(net.trafo).itertuples():
        ends = {int(trafo.hv_bus), int(trafo.lv_bus)}
        open_at = topology.open_ends["trafo"].get(int(trafo.Index), set())
        # pandapower takes one with an end at a dead bus out of service, switch or not
        if not (ends - open_at) & buses or not ends <= topology.buses.keys():
            continue
        keys = [key for key in (trafo.Index, trafo.name if is_named(trafo) else None) if key in wanted]
        regulator = wanted.pop(keys[0]) if keys and not open_at else None
        hv_kv, lv_kv = (float(net.bus.at[bus, "vn_kv"]) for bus in (trafo.hv_bus, trafo.lv_bus))
        branch = trafo_branch(trafo, hv_kv, lv_kv, regulator)
        if not open_at:
            yield branch
            continue
        # magnetised from the closed end: the open end's shunt in series with the impedance
        turns = abs(branch.ratio) ** 2
        y_a, y_b = branch.y_a_pu * turns, branch.y_b_pu  # both behind the ratio
        if branch.b in open_at:
            builder.add_shunt(branch.a, (y_a + y_b / (1 + branch.z_pu * y_b)) / turns)
        else:
            builder.add_shunt(branch.b, y_b + y_a / (1 + branch.z_pu * y_a))
    if wanted:
        known = ", ".join(label("trafo", trafo) for trafo in net.trafo.itertuples())
        raise ValueError(
            f"regulators: {', '.join(map(repr, wanted))} is no transformer that conducts in this tree; "
            f"the net has {known or 'none'}"
        )


def _merged(branches: Sequence[Branch], node: Mapping[Any, int]) -> Iterator[Branch]:
    """Branches in parallel become one, with the name of all; its loading is the highest of theirs."""
    groups: dict[frozenset[int], list[Branch]] = {}
    for branch in branches:
        groups.setdefault(frozenset((node[branch.a], node[branch.b])), []).append(branch)
    for group in groups.values():
        yield group[0] if len(group) == 1 else _parallel(group, node)


def _parallel(group: Sequence[Branch], node: Mapping[Any, int]) -> Branch:
    first = group[0]
    names = " | ".join(branch.name for branch in group)
    if any(branch.regulator for branch in group):
        raise ValueError(f"regulators: {names} are in parallel; make one transformer of them with its column parallel")
    turned = [branch if node[branch.a] == node[first.a] else _turned(branch) for branch in group]
    if any(abs(branch.ratio / first.ratio - 1) > 1e-12 for branch in turned):
        raise ValueError(
            f"the network is meshed: {names} join the same buses with different ratios, a current circulates; "
            "give them the same ratio and tap position, or take all but one out of service"
        )
    if not all(branch.z_pu for branch in group):
        raise ValueError(f"{names} are in parallel and one has no impedance; replace it by a switch between its buses")
    z = 1 / sum(1 / branch.z_pu for branch in turned)
    return replace(
        first,
        name=names,
        z_pu=z,
        y_a_pu=sum(branch.y_a_pu for branch in turned),
        y_b_pu=sum(branch.y_b_pu for branch in turned),
        rating_pu=min(branch.rating_pu * abs(branch.z_pu / z) for branch in turned),
    )


def _turned(branch: Branch) -> Branch:
    """The same branch seen from its other end."""
    return replace(
        branch,
        a=branch.b,
        b=branch.a,
        ratio=1 / branch.ratio,
        z_pu=branch.z_pu * abs(branch.ratio) ** 2,
        y_a_pu=branch.y_b_pu,
        y_b_pu=branch.y_a_pu,
    )
