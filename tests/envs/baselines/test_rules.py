"""Baselines without a solver: the documented year, the plain loops of `tests/envs/policies.py`, and odd scenarios."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import envs
from envs.baselines import make_baseline
from envs.baselines.rules import Greedy, RandomActions
from envs.microgrid import MicrogridEnv
from tests.envs.policies import Played, Policy, greedy, play, play_year, quantile_rule

NO_OBS = torch.zeros(0)


def acting(name: str, **options: Any) -> Callable[[MicrogridEnv], Policy]:
    """A baseline in the form that `play` takes."""

    def policy(env: MicrogridEnv) -> Policy:
        baseline = make_baseline(name, env, **options)
        return lambda env, _hour, _energy_mwh: baseline.act(torch.zeros(env.num_envs, 1, 1))

    return policy


@pytest.mark.parametrize(
    ("name", "options", "usd", "violating"),
    [
        ("greedy", {}, 1652.0, 0.161),
        pytest.param("greedy", {"end_rule": False}, 1730.5, None, marks=pytest.mark.slow),
        ("rule", {}, 1665.6, 0.165),
    ],
)
def test_a_year_costs_the_documented_amount(
    name: str, options: dict[str, bool], usd: float, violating: float | None
) -> None:
    played = play_year(acting(name, **options))
    assert played.cost_usd.mean().item() == pytest.approx(usd, abs=0.1)
    if violating is not None:
        assert (played.violating_hours.mean() / 24).item() == pytest.approx(violating, abs=6e-4)
    assert not played.failed_hours.any()


def test_idle_does_nothing() -> None:
    env = envs.make(num_envs=2)
    obs, _ = env.reset()
    assert torch.equal(make_baseline("idle", env).act(obs), env.idle_action().expand(env.action_shape))


def test_random_days_cost_and_violate_as_documented() -> None:
    env = envs.make(split="test", evaluation=True)
    played = play(env, acting("random")(env))
    assert played.cost_usd.mean().item() == pytest.approx(3337, rel=0.04)
    assert (played.violating_hours.mean() / 24).item() == pytest.approx(0.33, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options", "loops"),
    [
        ("greedy", {"end_rule": True}, lambda env: greedy(env, end_rule=True)),
        ("greedy", {"end_rule": False}, lambda env: greedy(env, end_rule=False)),
        ("rule", {}, quantile_rule),
    ],
)
def test_every_day_costs_what_the_plain_loops_pay(
    name: str, options: dict[str, bool], loops: Callable[[MicrogridEnv], Policy]
) -> None:
    def played(policy: Callable[[MicrogridEnv], Policy]) -> Played:
        env = envs.make(split="test", evaluation=True, num_envs=20, dtype="float64")
        return play(env, policy(env))

    assert (played(acting(name, **options)).cost_usd - played(loops).cost_usd).abs().max() < 1e-6


@pytest.mark.parametrize(("name", "dt_h"), [("greedy", 1.0), ("rule", 1.0), ("greedy", 0.25)])
def test_the_end_rule_returns_to_any_initial_energy(name: str, dt_h: float) -> None:
    env = envs.make(num_envs=16, seed=3, dt_h=dt_h, dtype="float64")
    env.reset()
    baseline = make_baseline(name, env)
    steps = [env.step(baseline.act(NO_OBS)) for _ in range(env.episode_length)]
    assert steps[-1].metrics["terminal_usd"].abs().max() < 1e-6


def test_quarter_hours_are_chosen_one_by_one_and_ties_by_the_earlier() -> None:
    env = envs.make(dt_h=0.25, num_envs=2)
    price = torch.full((2, 96), 50.0, dtype=torch.float64)
    price[0, 40:50], price[0, 60:80] = 20.0, 90.0  # ten cheap quarters of 16, twenty dear ones
    direction = Greedy(env)._direction(price)
    assert torch.nonzero(direction[0] == 1.0).flatten().tolist() == [*range(6), *range(40, 50)]
    assert torch.nonzero(direction[0] == -1.0).flatten().tolist() == list(range(60, 76))
    assert torch.nonzero(direction[1]).flatten().tolist() == list(range(16)), "a flat day is cheap and dear at once"


def with_devices(**changes: dict[str, float]) -> MicrogridEnv:
    """Two test days with changed devices in MG1."""
    env = envs.make(
        num_envs=2, split="test", evaluation=True, dtype="float64", curtailment=True, microgrids={"MG1": changes}
    )
    env.reset()
    return env


@pytest.mark.parametrize("name", ["greedy", "rule"])
def test_devices_of_no_size_get_finite_actions(name: str) -> None:
    env = with_devices(
        battery={"p_max_mw": 0.0, "s_max_mva": 0.0},
        generator={"p_max_mw": 0.0, "cost_quadratic_usd_per_mw2h": 0.0},
        pv={"p_max_mw": 0.0},
        wind={"p_max_mw": 0.0},
    )
    baseline = make_baseline(name, env)
    for _ in range(24):
        env.step(baseline.act(NO_OBS))
        assert all((value[:, 0] == 0).all() for value in env.applied.values())
        assert (env.applied["pv_p_mw"] == env.requested["pv_p_mw"]).all()


def test_a_generator_of_constant_marginal_cost_is_on_or_off() -> None:
    env = with_devices(generator={"cost_quadratic_usd_per_mw2h": 0.0})
    baseline, generator = make_baseline("rule", env), env.scenario.microgrids["MG1"].generator
    seen = set()
    for _ in range(24):
        now = env.situation()
        env.step(baseline.act(NO_OBS))
        on = now.today.price[:, now.step] > generator.cost_linear_usd_per_mwh
        assert torch.equal(env.applied["generator_p_mw"][:, 0], on.double() * generator.p_max_mw)
        seen |= set(on.tolist())
    assert seen == {True, False}


@pytest.mark.slow
def test_a_random_year_costs_the_documented_amount() -> None:
    played = play_year(acting("random"))
    assert played.cost_usd.mean().item() == pytest.approx(3337, rel=0.03)
    assert (played.violating_hours.mean() / 24).item() == pytest.approx(0.33, abs=0.02)


def test_random_actions_repeat_after_a_reset_and_leave_other_generators_alone() -> None:
    env = envs.make(num_envs=5)
    baseline, other = RandomActions(env, seed=4), RandomActions(env, seed=5)
    before = torch.get_rng_state()

    def two() -> Tensor:
        return torch.stack([baseline.act(NO_OBS), baseline.act(NO_OBS)])

    first = two()
    assert first.abs().max() <= 1.0
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other.act(NO_OBS))
    baseline.reset(torch.ones(5, dtype=torch.bool))
    assert not torch.equal(first, two()), "the end of an episode goes on in the stream"
    baseline.reset()
    assert torch.equal(first, two())
    assert torch.equal(before, torch.get_rng_state())
