"""Model-predictive control: the branch-flow program in a receding horizon.

Data flow: `Situation` -> outlook by the forecast rule -> `DistFlow` to midnight -> set-points of its first step -> env.
"""

import torch
from torch import Tensor

from envs.baselines.certificate import set_points
from envs.baselines.day_data import day_data
from envs.baselines.schedule import actions_or_idle
from envs.baselines.tree import check_network
from envs.baselines.workers import solve_all
from envs.devices import Applied
from envs.microgrid import MicrogridEnv
from envs.situation import Forecast, checked_forecast, outlook


class Mpc:
    """Each step solves the rest of the day from the measured energies and peak, and applies the first set-points.

    It knows the day's prices, this step's loads and renewables of the whole community, and yesterday's.

    Args:
        env: that will be stepped.
        forecast: `persistence`, or `perfect` for the day as it will be.
        workers: processes that share the copies; None: one a core; 1: this process.

    Raises:
        ValueError: an unknown forecast, or a network that the branch-flow program does not cover.
    """

    def __init__(self, env: MicrogridEnv, *, forecast: Forecast = "persistence", workers: int | None = None) -> None:
        self._env, self._workers = env, workers
        self._forecast: Forecast = checked_forecast(forecast)
        check_network(env.scenario, env.network)  # here, where the error reads as one of the setting
        self.unsolved_steps = torch.zeros(env.num_envs, dtype=torch.long)
        """(B,) decisions of each copy so far without a solution; it did nothing for these steps."""

    @property
    def unsolved(self) -> int:
        """Decisions of all copies so far without a solution."""
        return int(self.unsolved_steps.sum())

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """Actions (B, A, U) for the env's present step; the observation is not needed."""
        del obs, action_mask
        env, situation = self._env, self._env.situation()
        ahead = outlook(situation, self._forecast, env.scenario.steps_per_hour)
        answers = solve_all(set_points, env.scenario, day_data(situation, ahead), workers=self._workers)
        nothing = torch.full((len(env.scenario.microgrids),), torch.nan, dtype=torch.float64)
        first = [
            [nothing] * len(Applied._fields) if plan is None else [values[0] for values in plan] for plan, _ in answers
        ]
        actions, unsolved = actions_or_idle(env, Applied(*(torch.stack(column) for column in zip(*first, strict=True))))
        self.unsolved_steps += unsolved
        return actions
