"""Schedules that try to undercut a certified bound: the optimum with noise, random, extreme and rule-based ones."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from envs.baselines import make_baseline
from envs.baselines.bound import Bound
from envs.baselines.schedule import Schedule
from envs.devices import Applied
from envs.microgrid import MicrogridEnv
from envs.settings import EnvSettings
from mappo.evaluate import Acts

ALLOWED_USD = 1e-4
NOISE = (0.0, 0.001, 0.01, 0.05)
Policies = dict[str, Callable[[MicrogridEnv], Acts]]


class Fixed:
    """Actions from a function of the step, random ones for example."""

    def __init__(self, action: Callable[[], Tensor]) -> None:
        self._action = action

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        del obs, action_mask
        return self._action()


def evaluation_env(bound: Bound) -> MicrogridEnv:
    copies = len(bound.day)
    settings = EnvSettings(num_envs=copies, split=bound.split, evaluation=True, dtype="float64")
    return MicrogridEnv(bound.scenario, settings)


def j_usd(env: MicrogridEnv, policy: Acts) -> Tensor:
    """(D,) J of one day of every copy, float64."""
    obs, _ = env.reset()
    total = torch.zeros(env.num_envs, dtype=torch.float64)
    for _ in range(env.scenario.steps_per_day):
        step = env.step(policy.act(obs))
        total += step.metrics["cost_usd"] + step.metrics["penalty_usd"]
        obs = step.obs
    return total


def noisy(env: MicrogridEnv, schedule: Applied, noise: float, seed: int) -> Schedule:
    """The schedule with relative noise on every set-point, and as much of the device's size for those near 0."""
    rng = torch.Generator().manual_seed(seed)

    def shaken(values: Tensor) -> Tensor:
        one, other = (torch.randn(values.shape, generator=rng, dtype=torch.float64) for _ in range(2))
        return values * (1 + noise * one) + 0.5 * noise * other

    return Schedule(env, Applied(*(shaken(values) for values in schedule)))


def adversaries(bound: Bound, seeds: range) -> Iterator[tuple[str, Tensor]]:
    """J of schedules that might undercut the bound: the optimum's own, noisy, random, extreme and rule-based ones."""
    env = evaluation_env(bound)
    for noise in NOISE:
        for seed in seeds if noise else range(1):
            yield f"noise {noise} {seed}", j_usd(env, noisy(env, bound.schedule, noise, seed))
    rng = torch.Generator().manual_seed(seeds[-1])
    for seed in seeds:
        for width in (1.0, 0.1):

            def around_idle(width: float = width) -> Tensor:
                shift = 2 * torch.rand(env.action_shape, generator=rng, dtype=torch.float64) - 1
                return shift if width == 1 else (env.idle_action() + width * shift).clamp(-1, 1)

            yield f"random {width} {seed}", j_usd(env, Fixed(around_idle))
    for name in ("idle", "greedy", "rule"):
        yield name, j_usd(env, make_baseline(name, env))
    full = torch.full_like(
        bound.schedule.battery_q_mvar, max(g.battery.s_max_mva for g in env.scenario.microgrids.values())
    )
    for name, q in (("absorbs Q", full), ("feeds Q", -full)):
        yield name, j_usd(env, Schedule(env, bound.schedule._replace(battery_q_mvar=q)))


def check_validity(bound: Bound, seeds: range) -> int:
    """Asserts that nothing undercuts the bound; returns the number of day/schedule pairs."""
    assert not bound.unsolved, dict(zip(bound.dates, bound.status, strict=True))
    pairs = 0
    for name, cost_usd in adversaries(bound, seeds):
        assert torch.isfinite(cost_usd).all(), name
        below = (bound.usd - cost_usd).max().item()
        assert below <= ALLOWED_USD, f"{name} is {below} $ below the bound"
        pairs += len(cost_usd)
    return pairs
