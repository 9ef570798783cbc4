"""Play policies on the same held-out days.

Data flow: env, policy -> `play` -> `Played` (one number a day) -> `compare.py`.
Dims: D episodes (days of the split, or weeks of a scenario that runs on).
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from envs import MicrogridEnv
from envs.day_trace import PlayedDay
from envs.microgrid import DAYS_PER_WEEK
from mappo.evaluate import Acts, evaluate

PARTS = ("energy", "generator", "demand", "terminal", "penalty")
"""What J is the sum of; `<part>_usd` are metrics of the env."""
DAYS_PER_EPISODE = {"day": 1, "week": DAYS_PER_WEEK}
Kind = Literal["run", "baseline", "optimum"]


@dataclass(frozen=True, kw_only=True)
class Played:
    """One policy on D episodes; every tensor is (D,) float64. Dollars and hours are per day."""

    name: str
    kind: Kind
    j_usd: Tensor
    parts_usd: dict[str, Tensor]
    violating_h: Tensor
    overloaded_h: Tensor
    failed_h: Tensor
    v_min_pu: Tensor
    v_max_pu: Tensor
    seconds_per_decision: float
    """Time in `act`, divided by copies and steps: of all microgrids' actions in one step of one copy."""
    day: PlayedDay | None
    """What each copy did on its (last) day, for pictures."""


class _Timed:
    """A policy whose time in `act` is added up; everything else is the policy's own."""

    def __init__(self, policy: Acts) -> None:
        self._policy = policy
        self.seconds, self.decisions = 0.0, 0

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        started = time.perf_counter()
        actions = self._policy.act(obs, action_mask)
        self.seconds += time.perf_counter() - started
        self.decisions += len(obs)
        return actions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)


def play(name: str, kind: Kind, policy: Acts, env: MicrogridEnv) -> Played:
    """One deterministic episode of every copy of an evaluation env."""
    timed = _Timed(policy)
    totals = evaluate(timed, env).totals
    days = DAYS_PER_EPISODE[env.scenario.horizon]

    def per_day(metric: str) -> Tensor:
        return totals[metric].double().cpu() / days

    def hours(metric: str) -> Tensor:
        steps = (totals[metric].double().cpu() * env.episode_length).round()  # a float32 share of the steps
        return steps * env.scenario.dt_h / days

    return Played(
        name=name,
        kind=kind,
        j_usd=per_day("cost_usd") + per_day("penalty_usd"),
        parts_usd={part: per_day(f"{part}_usd") for part in PARTS},
        violating_h=hours("violating"),
        overloaded_h=hours("overloaded"),
        failed_h=hours("not_converged"),
        v_min_pu=totals["v_min_pu"].double().cpu(),
        v_max_pu=totals["v_max_pu"].double().cpu(),
        seconds_per_decision=timed.seconds / timed.decisions,
        day=env.last_day(),
    )


def episodes_to_play(env_days: int, days: int | None, split: str) -> int:
    """How many episodes to play.

    Raises:
        ValueError: `--days` is not in 1 .. `env_days`.
    """
    if days is None:
        return env_days
    if not 1 <= days <= env_days:
        raise ValueError(f"--days must be from 1 to {env_days}, what --split {split} holds; got {days}")
    return days
