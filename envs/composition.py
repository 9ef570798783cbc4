"""A scenario's network: feeder and microgrids from their tables, scaled and set as the scenario says.

Data flow: `Scenario`, network tables -> one `Tables` -> `Network` -> `grid.py`.
"""

from dataclasses import replace
from pathlib import Path

from envs.power.from_tables import network_from_tables
from envs.power.network import Network
from envs.power.tables import Tables, compose, read_tables
from envs.scenario import DATA, Feeder, Microgrid, Scenario


def build_network(scenario: Scenario) -> Network:
    """The one network of feeder and microgrids; raises ValueError as `scenario_tables`."""
    return network_from_tables(scenario_tables(scenario))


def scenario_tables(scenario: Scenario) -> Tables:
    """Tables of feeder and microgrids together, with the scenario's scales, capacitors and tap changers.

    Raises:
        ValueError: a network, feeder bus, capacitor or regulator that does not exist.
    """
    feeder = replace(_tables(scenario.feeder), source_v_pu=scenario.feeder.slack_v_pu)
    microgrids = {name: (_tables(grid), grid.bus) for name, grid in scenario.microgrids.items()}
    tables = compose(feeder, microgrids, scenario.feeder.name)
    for name, part in {scenario.feeder.name: scenario.feeder, **scenario.microgrids}.items():
        tables = _with_regulators(tables, name, part)
    return tables


def _tables(part: Feeder | Microgrid) -> Tables:
    """The part's own tables with its load scale and capacitor steps."""
    folder = DATA / "networks" / part.network
    if not folder.is_dir():
        folder = Path(part.network)
    if not folder.is_dir():
        known = sorted(path.name for path in (DATA / "networks").iterdir() if path.is_dir())
        raise ValueError(f"network {part.network!r} is unknown; use one of {', '.join(known)} or a folder of tables")
    tables = read_tables(folder)
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


def _with_regulators(tables: Tables, name: str, part: Feeder | Microgrid) -> Tables:
    trafos = {trafo.name: trafo for trafo in tables.trafos}
    for key, settings in part.regulators.items():
        full = f"{name}.{key}"
        changer = trafos[full].tap_changer if full in trafos else None
        if changer is None:
            known = ", ".join(t.name for t in tables.trafos if t.tap_changer is not None)
            raise ValueError(f"{name}: regulators.{key} does not exist; tap changers are {known}")
        changer = replace(changer, v_target_pu=settings.target_pu, deadband_pu=settings.deadband_pu)
        trafos[full] = replace(trafos[full], tap_changer=changer)
    return replace(tables, trafos=tuple(trafos.values()))
