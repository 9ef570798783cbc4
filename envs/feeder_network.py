"""A pandapower network as the feeder of a scenario: read, set, and joined with the microgrids' tables.

Data flow: `pandapower:<name>` or a JSON file -> `Network` of the feeder; with each microgrid's `Network` -> one tree.
pandapower networks hold more than tables can (magnetising currents, phase shifts), so they are joined behind the
conversion, branch by branch.
"""

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from math import isnan
from pathlib import Path
from typing import Any

from envs.connection import PANDAPOWER, hang, kv_of
from envs.power.builder import Branch, NetworkBuilder
from envs.power.from_tables import network_from_tables
from envs.power.network import Network
from envs.power.tables import Capacitor, Tables
from envs.scenario import Scenario
from envs.scenario_parts import Feeder


def read_pandapower(network: str) -> Any:
    """The pandapower net that the key `network` names.

    Raises:
        ValueError: an unknown name, or a file that is missing or no pandapower network.
    """
    import pandapower  # noqa: PLC0415 - heavy, and only these scenarios need it
    import pandapower.networks  # noqa: PLC0415

    if network.startswith(PANDAPOWER):
        name = network.removeprefix(PANDAPOWER)
        makers = {key: value for key, value in vars(pandapower.networks).items() if callable(value)}
        if name not in makers:
            near = get_close_matches(name, makers, n=5, cutoff=0.3)
            raise ValueError(f"feeder.network: pandapower.networks has no {name!r}; near names are {', '.join(near)}")
        net = deepcopy(_made(makers[name]))
    else:
        if not Path(network).is_file():
            raise ValueError(f"feeder.network: file {network} does not exist; write one with pandapower.to_json")
        try:
            net = pandapower.from_json(network)
        except (ValueError, KeyError, TypeError, AttributeError, UserWarning) as error:
            raise ValueError(f"feeder.network: {network} is no pandapower JSON file ({error})") from error
    if not isinstance(net, pandapower.pandapowerNet):
        raise ValueError(f"feeder.network: {network} does not give one pandapower network, but {type(net).__name__}")
    return net


@cache
def _made(maker: Callable[[], Any]) -> Any:
    """A network of pandapower's own; reading one takes a second."""
    return maker()


def pandapower_feeder(feeder: Feeder) -> Network:
    """The feeder alone, its buses named by pandapower's bus indices as text, with the scenario's scale and shunts.

    Raises:
        ValueError: what `Network.from_pandapower` refuses, static generators, an unknown shunt.
    """
    net = read_pandapower(feeder.network)
    _set_shunts(net, feeder)
    regulators = {
        int(key) if key.isdecimal() else key: (settings.target_pu, settings.deadband_pu)
        for key, settings in feeder.regulators.items()
    }
    try:
        network = Network.from_pandapower(net, ext_grid=feeder.ext_grid, regulators=regulators or None)
    except ValueError as error:
        # a scenario writes `key: value` where the call has `key=value`
        text = re.sub(r"\bext_grid=", "feeder.ext_grid: ", str(error))
        raise ValueError(f"feeder.network {feeder.network}: {text}") from error
    if network.generation_p_mw.any() or network.generation_q_mvar.any():
        buses = [str(bus) for bus, p in zip(network.bus_index, network.generation_p_mw.tolist(), strict=True) if p]
        raise ValueError(
            f"feeder.network {feeder.network}: it has static generators at buses {', '.join(buses)}, which no profile "
            "drives; take them out of service and make them PV or wind of a microgrid"
        )
    return replace(
        network,
        load_p_mw=network.load_p_mw * feeder.load_scale,
        load_q_mvar=network.load_q_mvar * feeder.load_scale,
    )


def build_on_pandapower(scenario: Scenario) -> Network:
    """Feeder and microgrids as one tree, for a scenario whose feeder is a pandapower network.

    Raises:
        ValueError: as `pandapower_feeder` and `connection.hang`.
    """
    feeder = pandapower_feeder(scenario.feeder)
    kv = {str(bus): float(feeder.base_kv[i]) for bus, i in feeder.alias.items()}
    sources = [f"{prefix}.{feeder.bus_index[0]}" for prefix in scenario.feeders()]
    builder = NetworkBuilder(sources[0], scenario.feeder.slack_v_pu)
    for prefix, grids in scenario.feeders().items():
        _add(builder, feeder, scenario.feeder.name, f"{prefix}.")
        for name, grid in grids.items():
            # of the feeder only this bus, whose branches are in the builder already
            alone = Tables(source_bus=grid.bus, source_v_pu=1.0, bus_kv={grid.bus: kv_of(grid.bus, name, kv)})
            _add(builder, network_from_tables(hang(alone, {name: grid}, prefix)), name)
    for source in sources[1:]:
        builder.fuse(sources[0], source)
    return builder.build()


def _add(builder: NetworkBuilder, net: Network, area: str, prefix: str = "") -> None:
    """Put the rows of a finished tree into a builder; a root that is there already keeps its area."""
    names = [f"{prefix}{bus}" for bus in net.bus_index]
    root_is_new = bool(prefix)  # else it is the feeder bus that a microgrid hangs on
    for j, name in enumerate(names):
        if j or root_is_new:
            builder.add_bus(name, float(net.base_kv[j]), area)
        builder.add_shunt(name, complex(net.y_pu[j]))
        builder.add_load(name, float(net.load_p_mw[j]), float(net.load_q_mvar[j]))
    for alias, j in net.alias.items():
        if alias != net.bus_index[j]:
            builder.add_bus(f"{prefix}{alias}", float(net.base_kv[j]), area)
            builder.fuse(names[j], f"{prefix}{alias}")
    regulators = {
        regulator.bus: {key: value for key, value in vars(regulator).items() if key not in ("name", "bus")}
        for regulator in net.regulators
    }
    for j in range(1, net.num_buses):
        name, parent = f"{prefix}{net.branch_names[j]}", names[int(net.parent[j])]
        branch = Branch.of(net, j, name=name, a=parent, b=names[j], regulator=regulators.get(j))
        builder.add_branch(branch, shunts_counted=True)  # in `net.y_pu`


def _set_shunts(net: Any, feeder: Feeder) -> None:
    """Steps of the shunts that the scenario names."""
    for name, steps in feeder.capacitors.items():
        rows = net.shunt.index[net.shunt.name == name]
        limit = int(net.shunt.max_step[rows].min()) if len(rows) else 0
        if len(rows) != 1 or steps > limit:
            known = ", ".join(f"{row.name} (at most {row.max_step})" for row in net.shunt.itertuples() if row.name)
            raise ValueError(
                f"feeder.capacitors.{name}: {steps} is not possible in {feeder.network}; it has {known or 'none'}"
            )
        net.shunt.loc[rows, "step"] = steps


def pandapower_banks(feeder: Feeder) -> list[Capacitor]:
    """The capacitive shunts in service of a pandapower feeder, with the scenario's steps; 'shunt 3' without a name."""
    net = read_pandapower(feeder.network)
    _set_shunts(net, feeder)
    banks = net.shunt[net.shunt.in_service & (net.shunt.q_mvar < 0)]
    found = []
    for row in banks.itertuples():
        kv = float(net.bus.at[row.bus, "vn_kv"])
        steps = max(int(row.max_step), int(row.step), 1)
        # q_mvar is that of one step at the shunt's rated voltage
        q_mvar = -float(row.q_mvar) * steps * (kv / (kv if isnan(row.vn_kv) else float(row.vn_kv))) ** 2
        name, own = row.name or f"shunt {row.Index}", {"n_steps": steps, "default_step": int(row.step)}
        found.append(Capacitor(name=name, bus=str(row.bus), q_mvar_capacitive=q_mvar, **own))
    return found
