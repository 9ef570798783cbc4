"""Set-points known in advance reach the env's devices unchanged."""

import pytest
import torch
from torch import Tensor

import envs
from envs.baselines.schedule import Schedule, day_costs
from envs.devices import Applied
from envs.microgrid import MicrogridEnv
from tests.envs.policies import idle, play


def an_env(copies: int = 4, *, curtailment: bool = False) -> MicrogridEnv:
    return envs.make(num_envs=copies, split="test", evaluation=True, dtype="float64", curtailment=curtailment)


def feasible(env: MicrogridEnv, seed: int) -> Applied:
    """Random set-points that every energy allows, (B, 3, H) each."""
    rng = torch.Generator().manual_seed(seed)
    env.reset()
    now = env.situation()
    shape = (env.num_envs, 3, env.scenario.steps_per_day)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=rng, dtype=torch.float64)

    # charge in even steps and give back less in odd ones: the energy stays between 1.0 and 1.5 MWh
    battery_p = uniform(0.1, 0.12)
    battery_p[..., 1::2] = -0.9 * 0.98**2 * battery_p[..., ::2]
    battery_p[..., 12:] *= 0.5
    left = (0.36 - battery_p.square()).sqrt()
    rated = torch.tensor([0.66, 0.6, 0.5], dtype=torch.float64)[:, None]
    share = uniform(0.0, 1.0) if env.scenario.curtailment else 1.0
    pv_mw, wind_mw = now.today.renewables_mw.chunk(2, 1)
    return Applied(battery_p, left * uniform(-1, 1), rated * uniform(0, 1), pv_mw * share, wind_mw * share)


@pytest.mark.parametrize("curtailment", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_feasible_set_points_are_applied_as_they_are(curtailment: bool, seed: int) -> None:
    env = an_env(curtailment=curtailment)
    wanted = feasible(env, seed)
    obs, _ = env.reset()
    schedule = Schedule(env, wanted)
    for step in range(24):
        obs = env.step(schedule.act(obs)).obs
        for name, value in wanted._asdict().items():
            torch.testing.assert_close(env.applied[name], value[..., step], atol=1e-14, rtol=1e-13)


def test_what_is_not_feasible_becomes_the_nearest_action() -> None:
    env = an_env(1)
    env.reset()
    huge = Applied(*(torch.full((1, 3, 24), 9.0, dtype=torch.float64) for _ in range(5)))
    env.step(Schedule(env, huge).act(torch.empty(0)))
    assert env.applied["battery_p_mw"].tolist() == [[0.5] * 3]
    assert env.applied["generator_p_mw"][0].tolist() == pytest.approx([0.66, 0.6, 0.5])
    left = (0.36 - 0.25) ** 0.5
    assert env.applied["battery_q_mvar"][0].tolist() == pytest.approx([left] * 3)


def test_rows_that_are_not_numbers_do_nothing() -> None:
    env = an_env(3)
    wanted = feasible(env, 0)
    for values in wanted:
        values[1] = torch.nan
    found = day_costs(env, wanted)
    idle_usd = play(an_env(3), idle(env)).cost_usd
    assert found[1] == pytest.approx(float(idle_usd[1]), abs=1e-9)
    assert ((found - idle_usd).abs()[[0, 2]] > 1).all()


def test_the_cost_of_a_day_is_cost_and_penalty_of_its_steps() -> None:
    env = an_env(2)
    wanted = feasible(env, 3)
    env.reset()
    schedule, total = Schedule(env, wanted), torch.zeros(2, dtype=torch.float64)
    for _ in range(24):
        metrics = env.step(schedule.act(torch.empty(0))).metrics
        total += metrics["cost_usd"] + metrics["penalty_usd"]
    torch.testing.assert_close(day_costs(env, wanted), total, atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", [(3, 3, 24), (4, 2, 24), (4, 3, 96), (4, 24, 3)])
def test_another_shape_is_refused(shape: tuple[int, int, int]) -> None:
    points = Applied(*(torch.zeros(shape) for _ in range(5)))
    with pytest.raises(ValueError, match=r"must have shape \(4, 3, 24\) \(copies, microgrids, steps\), got \("):
        Schedule(an_env(), points)
