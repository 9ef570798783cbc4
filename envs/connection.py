"""Microgrids on a feeder, as tables: read, scaled, set, and connected at their voltage.

Data flow: `Feeder`, `Microgrid` of a scenario, network folders -> `Tables` -> `composition.py`, `feeder_network.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from envs.power.tables import Tables, compose, read_tables
from envs.scenario import DATA
from envs.scenario_parts import Feeder, Microgrid

VOLTAGE_FIT = 0.1  # a transformer's rating may differ from its bus's nominal voltage by this share
PANDAPOWER = "pandapower:"


def is_pandapower(network: str) -> bool:
    """Whether the key `network` names a pandapower network or a JSON file of one."""
    return network.startswith(PANDAPOWER) or Path(network).suffix == ".json"


def hang(feeder: Tables, grids: Mapping[str, Microgrid], prefix: str) -> Tables:
    """Microgrids on one feeder, with their scales, capacitors, tap changers and connection voltages.

    Args:
        feeder: its tables; buses become `<prefix>.<bus>`.
        grids: by name; buses become `<name>.<bus>`.
        prefix: of the feeder.

    Raises:
        ValueError: a network, bus, capacitor or regulator that does not exist, or a transformer that does not fit.
    """
    parts: dict[str, tuple[Tables, str]] = {}
    ratings: dict[str, float] = {}
    for name, grid in grids.items():
        tables, bus_kv = scaled_tables(grid), kv_of(grid.bus, name, feeder.bus_kv)
        ratings |= _rated_at(name, grid, tables, bus_kv)
        parts[name] = tables, grid.bus
    joined = compose(feeder, parts, prefix)
    rated = [replace(t, vn_hv_kv=ratings[t.name]) if t.name in ratings else t for t in joined.trafos]
    joined = replace(joined, trafos=tuple(rated))
    for name, grid in grids.items():
        joined = with_regulators(joined, name, grid)
    return joined


def scaled_tables(part: Feeder | Microgrid) -> Tables:
    """The part's own tables with its load scale and capacitor steps; ValueError for what does not exist."""
    tables = read_tables(_folder(part.network))
    banks = {bank.name: bank for bank in tables.capacitors}
    for name, steps in part.capacitors.items():
        if name not in banks or steps > banks[name].n_steps:
            known = ", ".join(f"{bank.name} (at most {bank.n_steps})" for bank in tables.capacitors)
            raise ValueError(f"capacitors.{name}: {steps} is not possible in {part.network}; it has {known or 'none'}")
        banks[name] = replace(banks[name], default_step=steps)
    loads = [
        replace(load, p_mw=load.p_mw * part.load_scale, q_mvar=load.q_mvar * part.load_scale) for load in tables.loads
    ]
    return replace(tables, capacitors=tuple(banks.values()), loads=tuple(loads))


def kv_of(bus: str, name: str, bus_kv: Mapping[str, float]) -> float:
    """Nominal voltage in kV of the feeder bus that microgrid `name` hangs on; ValueError if there is none."""
    if bus not in bus_kv:
        raise ValueError(f"microgrids.{name}.bus: feeder bus {bus!r} does not exist; {near_names(bus, bus_kv)}")
    return bus_kv[bus]


def _folder(network: str) -> Path:
    packaged = DATA / "networks" / network
    if packaged.is_dir():
        return packaged
    if Path(network).is_dir():
        return Path(network)
    if is_pandapower(network):
        raise ValueError(f"network {network}: a pandapower network can be a feeder only; give a microgrid's as tables")
    known = sorted(path.name for path in (DATA / "networks").iterdir() if path.is_dir())
    raise ValueError(
        f"network {network!r} is unknown; use one of {', '.join(known)}, a folder of tables, or for a feeder "
        "pandapower:<name> or a .json file of pandapower"
    )


def _rated_at(name: str, grid: Microgrid, tables: Tables, bus_kv: float) -> dict[str, float]:
    """Composed name of the microgrid's substation transformer -> its high-voltage rating in kV."""
    substations = [t for t in tables.trafos if t.hv_bus == tables.source_bus]
    if len(substations) != 1:
        return {}  # `compose` refuses it
    rated_kv = substations[0].vn_hv_kv if grid.connection_kv is None else grid.connection_kv
    if abs(rated_kv / bus_kv - 1) > VOLTAGE_FIT:
        whose = f"the transformer of {grid.network}" if grid.connection_kv is None else "connection_kv"
        raise ValueError(
            f"microgrids.{name}.bus: bus {grid.bus!r} has {bus_kv:g} kV, but {whose} is for {rated_kv:g} kV; set "
            f"microgrids.{name}.connection_kv: {bus_kv:g}, or choose another bus"
        )
    return {f"{name}.{substations[0].name}": rated_kv}


def with_regulators(tables: Tables, name: str, part: Feeder | Microgrid) -> Tables:
    """Composed tables with the settings of one part's tap changers; ValueError for one that does not exist."""
    if not part.regulators:
        return tables
    trafos = {trafo.name: trafo for trafo in tables.trafos}
    for key, settings in part.regulators.items():
        full = f"{name}.{key}"
        changer = trafos[full].tap_changer if full in trafos else None
        if changer is None:
            known = ", ".join(t.name for t in tables.trafos if t.tap_changer is not None)
            raise ValueError(f"{name}: regulators.{key} does not exist; tap changers are {known or 'none'}")
        changer = replace(changer, v_target_pu=settings.target_pu, deadband_pu=settings.deadband_pu)
        trafos[full] = replace(trafos[full], tap_changer=changer)
    return replace(tables, trafos=tuple(trafos.values()))


def near_names(wanted: str, known: Iterable[str]) -> str:
    """Near names if there are any, else all."""
    names = list(known)
    near = get_close_matches(wanted, names, n=5, cutoff=0.5)
    return f"near names are {', '.join(near)}" if near else f"buses are {', '.join(names)}"
