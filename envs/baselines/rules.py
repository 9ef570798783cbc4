"""Baselines without a solver: doing nothing, price rules and uniform random actions.

Data flow: `MicrogridEnv.situation()` -> battery schedule of today's prices, end rule, generators at marginal cost ->
`Applied` -> `MicrogridEnv.actions_for`. Dims: B copies, A microgrids, H steps a day.
"""

import torch
from torch import Tensor

from envs.devices import Applied
from envs.microgrid import MicrogridEnv
from envs.settings import whole_number
from envs.situation import Situation

GREEDY_HOURS = 4  # charging, and as many discharging
LOW_QUANTILE, HIGH_QUANTILE = 0.3, 0.7


class Idle:
    """Battery 0, generator off, PV and wind as available."""

    def __init__(self, env: MicrogridEnv) -> None:
        self._action = env.idle_action()

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, U), the same for every observation."""
        del action_mask
        return self._action.expand(len(obs), -1, -1)


class RandomActions:
    """Every action uniform in [-1, 1], every choice uniform over its options, at every step.

    The stream is its own and starts at `seed`; `reset()` restarts it, so that an evaluation can be repeated. The end of
    an episode (`reset(mask)`) does not touch it: it is one stream for all copies.
    """

    def __init__(self, env: MicrogridEnv, *, seed: int = 0) -> None:
        self._shape, self._device, self._layout = env.action_shape, env.device, env.action_layout
        self._seed = whole_number("seed", seed)
        self._rng = torch.Generator().manual_seed(self._seed)

    def reset(self, mask: Tensor | None = None) -> None:
        """Restart the stream; with the mask of copies whose episode ended, nothing."""
        if mask is None:
            self._rng.manual_seed(self._seed)

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, U) drawn anew."""
        del obs, action_mask
        return self._layout.from_unit(2 * torch.rand(self._shape, generator=self._rng) - 1).to(self._device)


class _PriceRule:
    """Batteries by a schedule of today's prices, generators at marginal cost, Q 0, PV and wind at availability."""

    def __init__(self, env: MicrogridEnv, *, end_rule: bool) -> None:
        self._env, self._end_rule = env, end_rule
        grids = env.scenario.microgrids.values()
        self._dt_h = env.scenario.dt_h

        def column(part: str, name: str) -> Tensor:
            return torch.tensor([getattr(getattr(grid, part), name) for grid in grids], dtype=torch.float64)

        self._energy_min_mwh = column("battery", "energy_min_mwh")
        self._p_max_mw, self._efficiency = column("battery", "p_max_mw"), column("battery", "efficiency")
        self._generator_max_mw = column("generator", "p_max_mw")
        self._slope = 2 * column("generator", "cost_quadratic_usd_per_mw2h")  # of the marginal cost
        self._linear = column("generator", "cost_linear_usd_per_mwh")

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, U) for the env's present step."""
        del obs, action_mask
        now = self._env.situation()
        price = now.today.price[:, now.step, None]
        battery_p_mw = self._direction(now.today.price)[:, now.step, None] * self._p_max_mw
        if self._end_rule:
            battery_p_mw = self._repaired(battery_p_mw, now)
        renewables = (part[..., now.step] for part in now.today.renewables_mw.chunk(2, 1))
        none = torch.zeros_like(battery_p_mw)
        return self._env.actions_for(Applied(battery_p_mw, none, self._generator_p_mw(price), *renewables))

    def _direction(self, price: Tensor) -> Tensor:
        """(B, H) prices of a day -> 1 charge, -1 discharge, 0 nothing."""
        raise NotImplementedError

    def _repaired(self, p_mw: Tensor, now: Situation) -> Tensor:
        """(B, A) power that keeps the day's initial energy within reach: discharge less, or charge.

        After this step the energy must be at least E_0 - eta P_max dt (steps left after it), and the battery's minimum.
        """
        later_h = (now.today.price.shape[1] - 1 - now.step) * self._dt_h
        reachable_mwh = later_h * self._efficiency * self._p_max_mw
        least_mwh = torch.maximum(self._energy_min_mwh, now.initial_energy_mwh - reachable_mwh)
        change_mwh = least_mwh - now.energy_mwh
        floor_mw = torch.where(change_mwh > 0, change_mwh / self._efficiency, change_mwh * self._efficiency)
        return torch.maximum(p_mw, floor_mw / self._dt_h)

    def _generator_p_mw(self, price: Tensor) -> Tensor:
        """(B, 1) prices -> (B, A) clip((lambda - b) / 2a, 0, P_max); all or nothing where a = 0."""
        margin = price - self._linear
        best_mw = torch.where(self._slope > 0, margin / self._slope, torch.where(margin > 0, torch.inf, 0.0))
        return torch.minimum(best_mw.clamp(min=0.0), self._generator_max_mw)


class Greedy(_PriceRule):
    """Charge in the day's 4 cheapest hours, discharge in the 4 dearest, at full power; ties by the earlier step.

    With steps of a quarter of an hour these are the 16 cheapest and dearest quarters. A step that is both discharges.
    `end_rule` keeps the day's initial energy within reach.
    """

    def __init__(self, env: MicrogridEnv, *, end_rule: bool = True) -> None:
        super().__init__(env, end_rule=end_rule)
        self._steps = GREEDY_HOURS * env.scenario.steps_per_hour

    def _direction(self, price: Tensor) -> Tensor:
        direction = torch.zeros_like(price)
        for order, value in ((price.argsort(stable=True), 1.0), ((-price).argsort(stable=True), -1.0)):
            direction.scatter_(1, order[:, : self._steps], value)
        return direction


class Rule(_PriceRule):
    """Charge below the 30 % quantile of the day's prices, discharge above the 70 % quantile, at full power.

    Quantiles are interpolated linearly, comparisons are strict; the day's initial energy stays within reach.
    """

    def __init__(self, env: MicrogridEnv) -> None:
        super().__init__(env, end_rule=True)

    def _direction(self, price: Tensor) -> Tensor:
        levels = torch.tensor([LOW_QUANTILE, HIGH_QUANTILE], dtype=price.dtype)
        low, high = price.quantile(levels, dim=1, keepdim=True)
        return (price < low).to(price.dtype) - (price > high).to(price.dtype)
