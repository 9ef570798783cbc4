"""A schedule turned into actions: planned once with perfect foresight, or again before every step.

Data flow: `MicrogridEnv.situation()` -> `outlook` -> `Dispatch` -> set-points of the present step -> actions.
"""

import torch
from torch import Tensor

from envs.baselines.dispatch import Dispatch, Plan
from envs.baselines.schedule import actions_or_idle
from envs.devices import Applied
from envs.exogenous import ExogenousDay
from envs.microgrid import MicrogridEnv
from envs.situation import Forecast, Situation, checked_forecast, outlook


class Planner:
    """What the planning baselines share; a subclass says which peaks count.

    Raises:
        ValueError: an unknown forecast.
    """

    def __init__(self, env: MicrogridEnv, dispatch: Dispatch, forecast: Forecast) -> None:
        self._env, self._dispatch = env, dispatch
        self._forecast: Forecast = checked_forecast(forecast)
        self._today: ExogenousDay | None = None  # the day of the last action; the env makes a new one every day
        self._plan: Plan | None = None
        self._first_step = 0  # of the plan
        self.unsolved_steps = torch.zeros(env.num_envs, dtype=torch.long)
        """(B,) decisions of each copy so far without a solution."""

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, U) for the env's present step; copies without a plan do nothing."""
        del obs, action_mask
        now = self._env.situation()
        new_day = now.today is not self._today
        peak_mw = self._peaks_mw(now, new_day=new_day)
        self._today = now.today
        if self._plan is None or new_day or self._forecast == "persistence":
            ahead = outlook(now, self._forecast, self._env.scenario.steps_per_hour)
            highest_price = now.today.price.amax(1)
            self._plan = self._dispatch.solve(ahead, now.energy_mwh, now.initial_energy_mwh, peak_mw, highest_price)
            self._first_step = now.step
        column = now.step - self._first_step
        set_points = Applied(*(values[..., column] for values in self._plan.set_points))
        actions, unsolved = actions_or_idle(self._env, set_points)
        self.unsolved_steps += unsolved
        return actions

    def _peaks_mw(self, now: Situation, *, new_day: bool) -> Tensor:
        """(B, K) what the charged peaks have reached today."""
        raise NotImplementedError


def applied_mw(env: MicrogridEnv) -> Tensor:
    """(B, A) real power that each microgrid's devices drew in the last step, load convention."""
    p_mw = env.applied["battery_p_mw"] - env.applied["generator_p_mw"]
    p_mw = p_mw - env.applied["pv_p_mw"] - env.applied["wind_p_mw"]
    return p_mw.to("cpu", torch.float64)
