"""Idle cost and certified bound of an env's evaluation days, for scenarios whose reference is not shipped.

Data flow: `MicrogridEnv` -> idle day, `certified_bound` (cached) -> `DayReference` -> `env.reference`.
"""

import torch
from torch import Tensor

from envs.baselines.bound import Bound, certified_bound
from envs.baselines.schedule import day_costs
from envs.devices import Applied
from envs.microgrid import MicrogridEnv
from envs.reference import DayReference
from envs.settings import EnvSettings


def day_reference(env: MicrogridEnv, *, cache: bool = True, workers: int | None = None) -> DayReference:
    """References of the days that an evaluation env plays; set it as `env.reference` to get scores.

    Args:
        env: made with `evaluation=True`.
        cache: as in `certified_bound`.
        workers: as in `certified_bound`.

    Raises:
        ValueError: an env that draws random days, or whose days are not settled.
    """
    if not env.settings.evaluation:
        raise ValueError("a reference is for fixed days: make the env with evaluation=True")
    bound = certified_bound(env.scenario, env.settings.split, cache=cache, workers=workers)
    days = int(bound.day.max()) + 1
    idle_usd, bound_usd = (torch.full((days,), torch.nan, dtype=torch.float64) for _ in range(2))
    idle_usd[bound.day], bound_usd[bound.day] = idle_costs(bound), bound.usd
    return DayReference(idle_usd, bound_usd)


def idle_costs(bound: Bound) -> Tensor:
    """(D,) J of doing nothing on the days of a bound."""
    settings = EnvSettings(num_envs=len(bound.day), split=bound.split, evaluation=True, dtype="float64")
    env = MicrogridEnv(bound.scenario, settings)
    nothing = Applied(*(torch.full_like(values, torch.nan) for values in bound.schedule))
    return day_costs(env, nothing)
