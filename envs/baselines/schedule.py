"""Play a fixed schedule of set-points through the env, such as the bound's own.

Data flow: set-points of every day -> `Schedule.act` -> env. Dims: B copies, A microgrids, H steps a day.
"""

import torch
from torch import Tensor

from envs.devices import Applied
from envs.microgrid import MicrogridEnv


class Schedule:
    """Set-points known in advance; row b of the schedule is for copy b.

    Args:
        env: that will be stepped.
        set_points: each (B, A, H), MW and MVAr; rows that are not a number do nothing.

    Raises:
        ValueError: another number of copies, microgrids or steps.
    """

    def __init__(self, env: MicrogridEnv, set_points: Applied) -> None:
        wanted = (env.num_envs, len(env.scenario.microgrids), env.scenario.steps_per_day)
        if (shape := tuple(set_points.battery_p_mw.shape)) != wanted:
            raise ValueError(
                f"a schedule for this env must have shape {wanted} (copies, microgrids, steps), got {shape}"
            )
        self._env, self._set_points = env, set_points

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """Actions (B, A, U) for the env's present step; the observation is not needed."""
        del obs, action_mask
        step = self._env.situation().step
        return actions_or_idle(self._env, Applied(*(values[..., step] for values in self._set_points)))[0]


def actions_or_idle(env: MicrogridEnv, set_points: Applied) -> tuple[Tensor, Tensor]:
    """Actions (B, A, U) for set-points (B, A) of the present step, and which copies (B,) lack one.

    What is not a number, where a solver failed, does nothing.
    """
    actions = env.actions_for(set_points)
    known = actions.isfinite()
    return torch.where(known, actions, env.idle_action().to(actions)), ~known.flatten(1).all(-1).cpu()


def day_costs(env: MicrogridEnv, set_points: Applied) -> Tensor:
    """J (B,) in $ of one day of every copy under a schedule, float64."""
    obs, _ = env.reset()
    schedule = Schedule(env, set_points)
    cost = torch.zeros(env.num_envs, dtype=torch.float64)
    for _ in range(env.scenario.steps_per_day):
        step = env.step(schedule.act(obs))
        cost += (step.metrics["cost_usd"] + step.metrics["penalty_usd"]).double().cpu()
        obs = step.obs
    return cost
