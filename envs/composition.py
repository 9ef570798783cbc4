"""A scenario's network: feeders and microgrids joined, scaled and set as the scenario says.

Data flow: `Scenario`, network tables (`connection.py`) -> one `Tables` -> `Network` -> `grid.py`; a pandapower feeder
joins as a `Network` (`feeder_network.py`).
"""

from dataclasses import replace

from envs.connection import hang, is_pandapower, near_names, scaled_tables, with_regulators
from envs.feeder_network import build_on_pandapower, pandapower_banks
from envs.power.from_tables import network_from_tables
from envs.power.network import BASE_MVA, Network
from envs.power.tables import Capacitor, Switch, Tables
from envs.scenario import Scenario
from envs.scenario_parts import Feeder

LARGEST_SHARE = 20.0  # of a device's power in the rating of its microgrid's transformer; units are a thousand apart
DEVICE_KINDS = ("battery", "generator", "pv", "wind")


def build_network(scenario: Scenario) -> Network:
    """The one network of feeders and microgrids.

    Raises:
        ValueError: as `scenario_tables`, or a device on a bus that does not exist or in another unit.
    """
    if is_pandapower(scenario.feeder.network):
        net = build_on_pandapower(scenario)
    else:
        net = network_from_tables(scenario_tables(scenario))
    for name, grid in scenario.microgrids.items():
        for kind in DEVICE_KINDS:
            _check_device(net, name, kind, getattr(grid, kind).bus)
            _check_size(net, name, kind, getattr(grid, kind).p_max_mw)
    return net


def scenario_tables(scenario: Scenario) -> Tables:
    """Tables of feeders and microgrids together, with the scenario's scales, capacitors and tap changers.

    Raises:
        ValueError: a network, feeder bus, capacitor or regulator that does not exist, a microgrid whose transformer
            does not fit its bus's voltage, or a feeder that is no tables but a pandapower network.
    """
    if is_pandapower(scenario.feeder.network):
        raise ValueError(f"feeder.network {scenario.feeder.network} is a pandapower network and has no tables")
    if scenario.feeder.ext_grid is not None:
        raise ValueError(
            f"feeder.ext_grid needs a pandapower network, got {scenario.feeder.ext_grid!r} with feeder.network "
            f"{scenario.feeder.network}, whose tables have one source: remove feeder.ext_grid"
        )
    plain = replace(scaled_tables(scenario.feeder), source_v_pu=scenario.feeder.slack_v_pu)
    feeders = [
        with_regulators(hang(plain, grids, prefix), prefix, scenario.feeder)
        for prefix, grids in scenario.feeders().items()
    ]
    return feeders[0] if len(feeders) == 1 else _on_one_substation(feeders, scenario)


def capacitor_buses(scenario: Scenario, net: Network) -> list[tuple[int, bool]]:
    """Position in `net` of every capacitor bank, and whether it is switched on; for pictures."""
    own = [(bank.bus, bank.default_step > 0) for bank in feeder_banks(scenario.feeder)]
    banks = [(f"{prefix}.{bus}", is_on) for prefix in scenario.feeders() for bus, is_on in own]
    for name, grid in scenario.microgrids.items():
        banks += [(f"{name}.{bank.bus}", bank.default_step > 0) for bank in scaled_tables(grid).capacitors]
    # a bank behind another external grid of a pandapower network is not part of this tree
    return [(net.position(bus), is_on) for bus, is_on in banks if bus in net.alias]


def feeder_banks(feeder: Feeder) -> list[Capacitor]:
    """The feeder's capacitor banks with the scenario's steps; buses without prefix."""
    return pandapower_banks(feeder) if is_pandapower(feeder.network) else list(scaled_tables(feeder).capacitors)


def _on_one_substation(feeders: list[Tables], scenario: Scenario) -> Tables:
    """Feeders side by side: their source buses are one, and their own buses are one area."""
    first, *others = feeders
    couplers = [
        Switch(name=f"{other.source_bus} bus coupler", bus_a=first.source_bus, bus_b=other.source_bus, closed=True)
        for other in others
    ]
    bus_kv, areas = dict[str, float](), dict[str, str]()
    for tables in feeders:
        bus_kv.update(tables.bus_kv)
        areas.update(tables.areas)
    return replace(
        first,
        bus_kv=bus_kv,
        areas={bus: area if area in scenario.microgrids else scenario.feeder.name for bus, area in areas.items()},
        lines=tuple(row for tables in feeders for row in tables.lines),
        trafos=tuple(row for tables in feeders for row in tables.trafos),
        loads=tuple(row for tables in feeders for row in tables.loads),
        capacitors=tuple(row for tables in feeders for row in tables.capacitors),
        switches=(*(row for tables in feeders for row in tables.switches), *couplers),
    )


def _check_device(net: Network, name: str, kind: str, bus: str) -> None:
    if f"{name}.{bus}" in net.alias:
        return
    own = [str(known).removeprefix(f"{name}.") for known in net.alias if str(known).startswith(f"{name}.")]
    raise ValueError(f"microgrids.{name}.{kind}.bus: {bus!r} is no bus of {name}; {near_names(bus, own)}")


def _check_size(net: Network, name: str, kind: str, p_max_mw: float) -> None:
    """Refuses kW where MW are meant, which would be found only as a power flow without a solution."""
    rating_mva = float(net.rating_pu[net.area_starts[name]]) * BASE_MVA  # of the branch to the feeder
    if p_max_mw > LARGEST_SHARE * rating_mva:
        raise ValueError(
            f"microgrids.{name}.{kind}.p_max_mw must be at most {LARGEST_SHARE:g} times the {rating_mva:g} MVA of its "
            f"connection, got {p_max_mw:g}: it looks like kW, divide it by 1000"
        )
