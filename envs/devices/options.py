"""Which options a scenario's devices use, and their parameters as tensors.

Data flow: `Scenario` -> `Options`, `Units`, `Inverters`, `Flexibility` -> `fleet.py`; metrics -> `envs/metrics.py`.
"""

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from envs.device_options import Inverter
from envs.devices.demand import Flexibility
from envs.devices.generator import Units
from envs.devices.inverter import Inverters
from envs.scenario import Scenario
from mappo.vec_env import MetricSpec

PLANT_KINDS = ("pv", "wind")
_METRICS = {
    "commitment": (
        MetricSpec(name="commitment_usd", unit="$", reduce="sum", group="devices"),
        MetricSpec(name="generator_starts", unit="1", reduce="sum", group="devices"),
    ),
    "degradation": (MetricSpec(name="degradation_usd", unit="$", reduce="sum", group="devices"),),
    "shedding": (
        MetricSpec(name="shedding_usd", unit="$", reduce="sum", group="devices"),
        MetricSpec(name="shed_mwh", unit="MWh", reduce="sum", group="devices"),
    ),
    "shiftable": (
        MetricSpec(name="deferred_mwh", unit="MWh", reduce="sum", group="devices"),
        MetricSpec(name="backlog_mwh", unit="MWh", reduce="mean", group="devices"),
    ),
}


@dataclass(frozen=True)
class Options:
    """What at least one microgrid has. An option adds its columns to every microgrid; who lacks it ignores them."""

    commitment: bool
    ramp: bool
    degradation: bool
    inverters: tuple[str, ...]
    """Kinds of plants with an inverter."""
    q_actions: tuple[str, ...]
    """Kinds of plants whose Q is an action."""
    droops: tuple[str, ...]
    """Kinds of plants whose Q follows the voltage."""
    shedding: bool
    shiftable: bool

    @classmethod
    def of(cls, scenario: Scenario) -> "Options":
        """The options that a scenario's devices use."""
        grids = scenario.microgrids.values()

        def kinds(mode: str | None) -> tuple[str, ...]:
            found = {kind: _inverters(scenario, kind) for kind in PLANT_KINDS}
            return tuple(k for k, all_ in found.items() if any(i and mode in (None, i.mode) for i in all_))

        return cls(
            commitment=any(grid.generator.commitment for grid in grids),
            ramp=any(grid.generator.ramp_mw_per_h for grid in grids),
            degradation=any(grid.battery.degradation_usd_per_mwh for grid in grids),
            inverters=kinds(None),
            q_actions=kinds("action"),
            droops=kinds("volt_var"),
            shedding=any(grid.load_shedding for grid in grids),
            shiftable=any(grid.shiftable for grid in grids),
        )

    @property
    def demand(self) -> bool:
        """Whether loads can change."""
        return self.shedding or self.shiftable

    @property
    def action_names(self) -> tuple[str, ...]:
        """Columns behind those of the plain devices."""
        demand = [name for name, on in (("shed", self.shedding), ("shift", self.shiftable)) if on]
        return (*(f"{kind}_q" for kind in self.q_actions), *demand)

    @property
    def obs_names(self) -> tuple[str, ...]:
        """Observed columns of each microgrid."""
        names: list[str] = ["generator_p_mw"] if self.ramp else []
        if self.commitment:
            names += ["generator_on", "generator_state_h", "generator_locked_h"]
        if self.shiftable:
            names.append("backlog_mwh")
        return (*names, *(f"{kind}_v_pu" for kind in self.droops))


def device_metrics(scenario: Scenario) -> tuple[MetricSpec, ...]:
    """The metrics of the scenario's device options."""
    options = Options.of(scenario)
    used = {
        "commitment": options.commitment,
        "degradation": options.degradation,
        "shedding": options.shedding,
        "shiftable": options.shiftable,
    }
    return tuple(spec for option, on in used.items() if on for spec in _METRICS[option])


def units_of(scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Units:
    """The generators' parameters."""
    generators = [grid.generator for grid in scenario.microgrids.values()]
    rules = [generator.commitment for generator in generators]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device, dtype=dtype)

    def steps(name: str) -> Tensor:
        hours = [rule.durations()[name] if rule else 0.0 for rule in rules]
        return torch.tensor([round(h / scenario.dt_h) for h in hours], device=device)

    return Units(
        committed=torch.tensor([rule is not None for rule in rules], device=device),
        p_min_mw=column([rule.p_min_mw if rule else 0.0 for rule in rules]),
        p_max_mw=column([generator.p_max_mw for generator in generators]),
        ramp_mw=column([(generator.ramp_mw_per_h or inf) * scenario.dt_h for generator in generators]),
        start_usd=column([rule.start_usd if rule else 0.0 for rule in rules]),
        stop_usd=column([rule.stop_usd if rule else 0.0 for rule in rules]),
        start_steps=steps("start_h"),
        stop_steps=steps("stop_h"),
        up_steps=steps("min_up_h"),
        down_steps=steps("min_down_h"),
        initially_on=torch.tensor([rule is None or rule.initially_on for rule in rules], device=device),
    )


def inverters_of(scenario: Scenario, device: torch.device, dtype: torch.dtype) -> Inverters:
    """The parameters of all PV plants, then all wind plants."""
    none = Inverter(s_max_mva=0.0, mode="power_factor")
    plants = [inverter or none for kind in PLANT_KINDS for inverter in _inverters(scenario, kind)]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device, dtype=dtype)

    return Inverters(
        s_max_mva=column([plant.s_max_mva for plant in plants]),
        by_action=torch.tensor([plant.mode == "action" for plant in plants], device=device),
        by_voltage=torch.tensor([plant.mode == "volt_var" for plant in plants], device=device),
        q_per_p=column([_q_per_p(plant) for plant in plants]),
        v_pu=torch.stack([column([plant.v_pu[k] for plant in plants]) for k in range(4)]),
        q_share=torch.stack([column([plant.q_share[k] for plant in plants]) for k in range(4)]),
    )


def flexibility_of(scenario: Scenario, nominal_mw: Tensor) -> Flexibility:
    """The parameters of the microgrids' loads, whose nominal real power is given (A,)."""
    grids = scenario.microgrids.values()
    rows = (
        [grid.load_shedding.max_share if grid.load_shedding else 0.0 for grid in grids],
        [grid.load_shedding.usd_per_mwh if grid.load_shedding else 0.0 for grid in grids],
        [grid.shiftable.share if grid.shiftable else 0.0 for grid in grids],
        [grid.shiftable.max_backlog_mwh if grid.shiftable else 0.0 for grid in grids],
    )
    return Flexibility(nominal_mw, *(torch.tensor(row, dtype=torch.float64).to(nominal_mw) for row in rows))


def _inverters(scenario: Scenario, kind: str) -> list[Inverter | None]:
    return [getattr(grid, kind).inverter for grid in scenario.microgrids.values()]


def _q_per_p(plant: Inverter) -> float:
    """tan(acos(power factor)), negative where Q is consumed; 0 in other modes."""
    factor = plant.power_factor
    return sqrt(1 - factor**2) / factor * (-1 if plant.absorbing else 1)
