"""Certified lower bounds on J: what no controller can beat, day by day, with the proof's own error bars.

Data flow: scenario, split -> evaluation days -> `copper_plate.py` (floor), `certificate.py` in worker processes ->
`Bound` -> evaluation, `DayReference`. Solved days are kept on disk (`store.py`). docs/bound.md tells why the env's load
rule below 0.8 pu and its failed flows cannot undercut the value.
"""

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs.baselines.certificate import solve_day
from envs.baselines.day_data import day_data
from envs.baselines.floor import lossless_floor
from envs.baselines.schedule import day_costs
from envs.baselines.store import BoundStore, Row, default_cache
from envs.baselines.tree import check_provable
from envs.baselines.workers import solve_all
from envs.devices import Applied
from envs.microgrid import MicrogridEnv
from envs.profiles import Split
from envs.scenario import Scenario, load_scenario
from envs.settings import EnvSettings
from envs.situation import Situation, outlook


@dataclass(frozen=True)
class Bound:
    """Lower bounds of D days of a split. $ per day; tensors float64 on the CPU."""

    scenario: Scenario
    split: Split
    day: Tensor
    """(D,) day of the data, 0 = first."""
    dates: tuple[date, ...]
    usd: Tensor
    """(D,) certified lower bound on J; NaN where the day was not solved."""
    primal_usd: Tensor
    """(D,) the relaxation's optimum as its own schedule prices it."""
    residual_allowance_usd: Tensor
    """(D,) what the certificate gives away for the dual solution's rounding."""
    low_voltage_allowance_usd: Tensor
    """(D,) and for loads that shrink below 0.8 pu; 0 in the normal case."""
    cone_residual: Tensor
    """(D,) largest v l - P^2 - Q^2 in pu^2; 0 where the relaxation is exact."""
    phantom_loss_mwh: Tensor
    """(D,) losses that no power causes."""
    floor_usd: Tensor
    """(D,) what every schedule pays at least without any network; NaN on days with a negative price."""
    schedule: Applied
    """Set-points of the optimum, each (D, A, H)."""
    status: tuple[str, ...]
    """What the solver said of each day."""

    @property
    def unsolved(self) -> tuple[date, ...]:
        """Days without a bound."""
        return tuple(day for day, usd in zip(self.dates, self.usd.tolist(), strict=True) if isnan(usd))

    @property
    def failed_flow_margin_usd(self) -> Tensor:
        """(D,) by how much a day with a failed flow costs more than the bound at least; NaN where not shown.

        0 where a failed flow is so cheap that its price is the bound.
        """
        penalty = self.scenario.dt_h * self.scenario.safety.failed_flow_usd_per_h
        return self.floor_usd + penalty - self.usd

    @cached_property
    def replay_usd(self) -> Tensor:
        """(D,) J of the optimum's own schedule under the env's power flow and taps."""
        costs = day_costs(_evaluation_env(self.scenario, self.split, len(self.day)), self.schedule)
        return torch.where(self.usd.isfinite(), costs, torch.nan)

    @property
    def width(self) -> Tensor:
        """(D,) replay - bound: the true optimum of each day lies between."""
        return self.replay_usd - self.usd


def certified_bound(
    scenario: str | Path | Scenario = "ieee34_ieee13",
    split: Split = "test",
    *,
    days: int | None = None,
    cache: bool = True,
    workers: int | None = None,
    **overrides: Any,
) -> Bound:
    """Lower bound on J of each evaluation day of a split: no controller, however clairvoyant, costs less.

    Args:
        scenario: name, path of a YAML file, or a `Scenario`.
        split: `train`, `val` or `test`.
        days: only the first so many days of the split; None: all.
        cache: keep solved days under runs/.cache, and use those kept there.
        workers: processes; None: one a core; 1: this process.
        overrides: keys of the scenario file, as in `envs.make`.

    Raises:
        ValueError: a scenario whose days are not settled (`horizon: week`), an unknown split, too many days.
    """
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario, overrides)
    elif overrides:
        raise ValueError(f"overrides ({', '.join(overrides)}) go with a scenario's name; got a Scenario")
    if scenario.horizon != "day":
        raise ValueError(f"a bound needs horizon: day, whose account is settled at midnight; got {scenario.horizon}")
    env = _evaluation_env(scenario, split)
    wanted = range(env.num_envs if days is None else days)
    if not 1 <= len(wanted) <= env.num_envs:
        raise ValueError(f"--days must be from 1 to {env.num_envs}, the days of split {split}; got {days}")
    check_provable(scenario, env.network)
    env.reset()
    store = BoundStore.of(scenario, env.situation().today, split, default_cache() if cache else None)
    known = store.read()
    day_of_copy = env.day.tolist()
    if missing := [b for b in wanted if day_of_copy[b] not in known]:
        solutions = _solve(scenario, env.situation(), missing, workers)
        known |= {day_of_copy[b]: solution for b, solution in zip(missing, solutions, strict=True)}
        store.write(known)
    return _assemble(env, split, [known[day_of_copy[b]] for b in wanted])


def _solve(scenario: Scenario, situation: Situation, rows: list[int], workers: int | None) -> list[Row]:
    """Solution and floor of some copies' days."""
    ahead = outlook(situation, "perfect", scenario.steps_per_hour)
    data = day_data(situation, ahead)
    floors = lossless_floor(scenario, situation, ahead)[torch.tensor(rows)].tolist()
    known_floors = [None if isnan(floor) else floor for floor in floors]
    solutions = solve_all(solve_day, scenario, [data[b] for b in rows], known_floors, workers=workers)
    return list(zip(solutions, floors, strict=True))


def _evaluation_env(scenario: Scenario, split: Split, copies: int | None = None) -> MicrogridEnv:
    """One copy for each of the first days of a split, in double precision; None: all of them."""
    return MicrogridEnv(scenario, EnvSettings(num_envs=copies, split=split, evaluation=True, dtype="float64"))


def _assemble(env: MicrogridEnv, split: Split, rows: list[Row]) -> Bound:
    solutions = [solution for solution, _ in rows]
    days = env.day[: len(rows)].clone()

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(solution, name) for solution in solutions], dtype=torch.float64)

    # a failed flow is outside the relaxation: such a day costs the floor and its penalty at least, any day the floor
    floor = torch.tensor([floor for _, floor in rows], dtype=torch.float64)
    failed = floor + env.scenario.dt_h * env.scenario.safety.failed_flow_usd_per_h
    certified = column("certified_usd")
    certified = torch.where(floor.isnan(), certified, torch.maximum(torch.minimum(certified, failed), floor))
    parts = (torch.stack([s.set_points[k] for s in solutions]) for k in range(len(Applied._fields)))
    return Bound(
        scenario=env.scenario,
        split=split,
        day=days,
        dates=env.dates[: len(rows)],
        usd=certified,
        primal_usd=column("primal_usd"),
        residual_allowance_usd=column("residual_allowance_usd"),
        low_voltage_allowance_usd=column("low_voltage_allowance_usd"),
        cone_residual=column("cone_residual_pu2"),
        phantom_loss_mwh=column("phantom_loss_mwh"),
        floor_usd=floor,
        schedule=Applied(*(part.transpose(1, 2) for part in parts)),
        status=tuple(solution.status for solution in solutions),
    )
