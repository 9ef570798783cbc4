"""The baseline policies as plain loops, and the loop that plays them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import envs
from envs.microgrid import MicrogridEnv
from envs.profiles import load_profiles

Policy = Callable[[MicrogridEnv, int, Tensor], Tensor]
"""(env, hour, energies (B, A)) -> actions (B, A, U)."""


class Played(NamedTuple):
    """One day of every copy."""

    day: Tensor  # (B,)
    cost_usd: Tensor  # (B,) J: cost and penalty
    violating_hours: Tensor  # (B,)
    failed_hours: Tensor  # (B,)


def play(env: MicrogridEnv, policy: Policy) -> Played:
    """One day from a fresh reset."""
    env.reset()
    day, energy_mwh = env.day.clone(), env._account.energy_mwh
    cost, violating, failed = (torch.zeros(env.num_envs, dtype=torch.float64) for _ in range(3))
    for hour in range(env.episode_length):
        step = env.step(policy(env, hour, energy_mwh))
        energy_mwh = env._account.energy_mwh
        cost += step.metrics["cost_usd"] + step.metrics["penalty_usd"]
        violating += step.metrics["violating"]
        failed += step.metrics["not_converged"]
    return Played(day, cost, violating, failed)


def play_year(policy: Callable[[MicrogridEnv], Policy], **settings: Any) -> Played:
    """Every day of the data once, in the order of days."""
    parts = []
    for split in ("train", "val", "test"):
        env = envs.make(split=split, evaluation=True, **settings)
        parts.append(play(env, policy(env)))
    order = torch.cat([part.day for part in parts]).argsort()
    return Played(*(torch.cat(columns)[order] for columns in zip(*parts, strict=True)))


def idle(env: MicrogridEnv) -> Policy:
    actions = env.idle_action().expand(env.num_envs, -1, -1)
    return lambda _env, _hour, _energy_mwh: actions


def uniform_random(seed: int) -> Callable[[MicrogridEnv], Policy]:
    rng = torch.Generator().manual_seed(seed)
    return lambda env: lambda _env, _hour, _energy_mwh: 2 * torch.rand(env.action_shape, generator=rng) - 1


def greedy(env: MicrogridEnv, *, end_rule: bool) -> Policy:
    """Charge in the day's 4 cheapest hours, discharge in the 4 dearest; ties by the earlier hour."""

    def schedule_mw(prices: list[float]) -> list[float]:
        p_mw = [0.0] * 24
        for hour in sorted(range(24), key=lambda h: (prices[h], h))[:4]:
            p_mw[hour] = 0.5
        for hour in sorted(range(24), key=lambda h: (-prices[h], h))[:4]:
            p_mw[hour] = -0.5
        return p_mw

    return _by_price(env, schedule_mw, end_rule=end_rule)


def quantile_rule(env: MicrogridEnv) -> Policy:
    """Charge below the 30 % quantile of the day's prices, discharge above the 70 % quantile."""

    def quantile(prices: list[float], q: float) -> float:
        ordered, at = sorted(prices), q * 23
        low = int(at)
        return ordered[low] + (at - low) * (ordered[low + 1] - ordered[low])

    def schedule_mw(prices: list[float]) -> list[float]:
        low, high = quantile(prices, 0.3), quantile(prices, 0.7)
        return [0.5 if price < low else -0.5 if price > high else 0.0 for price in prices]

    return _by_price(env, schedule_mw, end_rule=True)


def _by_price(env: MicrogridEnv, schedule_mw: Callable[[list[float]], list[float]], *, end_rule: bool) -> Policy:
    """A battery schedule from prices and generators at marginal cost; the end rule keeps E_0 = 1 MWh reachable."""
    every_price = load_profiles(env.scenario).price
    generators = [grid.generator for grid in env.scenario.microgrids.values()]

    def act(env: MicrogridEnv, hour: int, energy_mwh: Tensor) -> Tensor:
        rows = []
        for day, energies in zip(env.day.tolist(), energy_mwh.tolist(), strict=True):
            prices = every_price[day].tolist()
            wanted_mw = schedule_mw(prices)[hour]
            least_mwh = max(0.2, 1.0 - (23 - hour) * 0.98 * 0.5)
            row = []
            for generator, energy in zip(generators, energies, strict=True):
                p_mw = wanted_mw
                after_mwh = energy + (0.98 * p_mw if p_mw > 0 else p_mw / 0.98)
                if end_rule and after_mwh < least_mwh:
                    change_mwh = least_mwh - energy
                    p_mw = change_mwh / 0.98 if change_mwh > 0 else change_mwh * 0.98
                slope, constant = generator.cost_quadratic_usd_per_mw2h, generator.cost_linear_usd_per_mwh
                g_mw = min(max((prices[hour] - constant) / (2 * slope), 0.0), generator.p_max_mw)
                row.append([p_mw / 0.5, 2 * g_mw / generator.p_max_mw - 1, 0.0])
            rows.append(row)
        return torch.tensor(rows, dtype=torch.float64)

    return act
