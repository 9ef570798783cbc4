from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import envs
from envs.microgrid import MicrogridEnv
from envs.tariff import utility_bill
from mappo.vec_env import Step, VecEnv
from tests.unreadable import hosts_run_ahead


def random_actions(env: MicrogridEnv, seed: int) -> Tensor:
    return 2 * torch.rand(env.action_shape, generator=torch.Generator().manual_seed(seed)) - 1


def rollout(env: MicrogridEnv, steps: int) -> Iterator[Step]:
    """Random steps, one at a time: the env is at the step that was yielded last."""
    for t in range(steps):
        yield env.step(random_actions(env, t))


def consumption_mw(env: MicrogridEnv, hour: int) -> Tensor:
    """(B, N) plain consumption of the last step, from the applied powers."""
    net, load = env.network, env._today.load[hour]
    areas = ["DSO", *env.agents]
    p_mw = net.load_p_mw * load[:, [areas.index(area) for area in net.areas]]
    for i, (name, grid) in enumerate(env.scenario.microgrids.items()):
        p_mw[:, net.position(f"{name}.{grid.battery.bus}")] += env.applied["battery_p_mw"][:, i]
        p_mw[:, net.position(f"{name}.{grid.generator.bus}")] -= env.applied["generator_p_mw"][:, i]
        p_mw[:, net.position(f"{name}.{grid.pv.bus}")] -= env.applied["pv_p_mw"][:, i]
        p_mw[:, net.position(f"{name}.{grid.wind.bus}")] -= env.applied["wind_p_mw"][:, i]
    return p_mw


def test_env_is_a_vec_env() -> None:
    env = envs.make(num_envs=2)
    assert isinstance(env, VecEnv)
    assert env.agents == ("MG1", "MG2", "MG3")
    env.reset()
    step = env.step(random_actions(env, 0))
    assert step.rewards.shape == step.terminated.shape == step.truncated.shape == step.alive.shape == (2, 3)
    assert step.action_mask.shape == (2, 3, 0)
    assert step.alive.all()
    assert {spec.name for spec in env.metric_specs} == set(step.metrics)
    assert {value.shape for value in step.metrics.values()} == {(2,)}


def test_power_is_conserved_at_the_head() -> None:
    env = envs.make(num_envs=32, dtype="float64")
    env.reset()
    for hour in range(23):  # the 24th step begins the next day
        env.step(random_actions(env, hour))
        grid, consumed_mw = env._grid_state, consumption_mw(env, hour)
        i_squared = grid.loading_squared[:, 1:] * env.network.rating_pu[1:].square()
        losses_mw = (i_squared * env.network.z_pu[1:].real).sum(-1)
        assert (grid.head_p_mw - consumed_mw.sum(-1) - losses_mw).abs().max() < 1e-8
        assert (grid.party_p_mw.sum(-1) - grid.head_p_mw).abs().max() < 1e-12
        assert losses_mw.min() > 0


@pytest.mark.parametrize("settlement", ["community", "individual"])
def test_rewards_average_to_the_community_cost(settlement: str) -> None:
    env = envs.make(num_envs=64, dtype="float64", settlement=settlement)
    env.reset()
    for step in rollout(env, 24):
        shared = -(step.metrics["cost_usd"] + step.metrics["penalty_usd"]) / (100 * 3)
        assert torch.allclose(step.rewards.double().mean(-1), shared, rtol=1e-6, atol=1e-6)
        assert step.rewards.std(-1).min() > 0  # agents differ


def test_cost_is_the_sum_of_its_parts_and_the_pool_is_the_head_bill() -> None:
    env = envs.make(num_envs=64, dtype="float64")
    env.reset()
    demand, peak = torch.zeros(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    for hour in range(24):
        price = env._today.price[hour]
        step = env.step(random_actions(env, hour))
        parts = sum(step.metrics[f"{name}_usd"] for name in ("energy", "generator", "demand", "terminal"))
        assert (step.metrics["cost_usd"] - parts).abs().max() < 1e-9
        head = step.metrics["head_peak_mw"]
        bill = utility_bill(head, price, export_share=0.5, dt_h=1.0)
        assert (step.metrics["energy_usd"] - bill).abs().max() < 1e-9
        demand += step.metrics["demand_usd"]
        peak = torch.maximum(peak, head)
        assert bool(step.metrics["terminal_usd"].any()) == (hour == 23)
    assert (demand - 100 * peak).abs().max() < 1e-9


def test_individual_settlement_bills_every_connection_alone() -> None:
    both = [envs.make(num_envs=64, dtype="float64", seed=2, settlement=s) for s in ("community", "individual")]
    for env in both:
        env.reset()
    pooled, alone = (torch.stack([step.metrics["energy_usd"] for step in rollout(env, 24)]) for env in both)
    saved = alone - pooled
    assert saved.min() > -1e-9
    assert saved.max() > 1  # trading moves money
    env = both[1]
    price = env._today.price[0]
    step = env.step(random_actions(env, 0))
    expected = utility_bill(env._grid_state.party_p_mw, price, export_share=0.5, dt_h=1.0).sum(-1)
    assert (step.metrics["energy_usd"] - expected).abs().max() < 1e-9


def test_terminal_cost_follows_the_missing_energy_by_hand() -> None:
    env = envs.make(num_envs=8, split="val", evaluation=True, dtype="float64")
    env.reset()
    highest = env._today.price.amax(0)
    actions = env.idle_action().expand(env.action_shape).clone()
    for _ in range(23):
        env.step(actions)
    actions[:, 0, 0], actions[:, 1, 0] = -0.5, 0.5  # MG2's surplus does not pay for MG1
    step = env.step(actions)
    missing = 0.25 / 0.98
    expected = missing * (1.1 * highest + 10)
    assert (step.metrics["terminal_usd"] - expected).abs().max() < 1e-9


def test_penalty_weight_changes_rewards_and_no_metric() -> None:
    plain, double = (envs.make(num_envs=32, dtype="float64", penalty=weight) for weight in (1.0, 2.0))
    for env in (plain, double):
        env.reset()
    pairs = list(zip(rollout(plain, 10), rollout(double, 10), strict=True))
    for one, two in pairs:
        for name, value in one.metrics.items():
            assert torch.equal(value, two.metrics[name]), name
        extra = 3 * 100 * (one.rewards - two.rewards).double().mean(-1)
        assert torch.allclose(extra, one.metrics["penalty_usd"], rtol=1e-4, atol=1e-2)
    assert max(one.metrics["penalty_usd"].max() for one, _ in pairs) > 1


def test_penalty_by_hand_from_voltages_and_loadings() -> None:
    env = envs.make(num_envs=64, dtype="float64", microgrids={"MG1": {"generator": {"p_max_mw": 2.5}}})  # overloads
    env.reset()
    areas, penalties = torch.tensor([env._grid.area_names.index(area) for area in env.network.areas[1:]]), []
    for step in rollout(env, 12):
        grid = env._grid_state
        assert grid.converged.all()
        v2, i2 = grid.v_pu[:, 1:].square(), grid.loading_squared[:, 1:]
        s_v = 0.5 * ((0.95**2 - v2).clamp(min=0) + (v2 - 1.05**2).clamp(min=0))
        s_l = 0.5 * (i2 - 1).clamp(min=0)
        each = 3000 * s_v + 1000 * s_l
        assert (step.metrics["penalty_usd"] - each.sum(-1)).abs().max() < 1e-9
        owned = torch.stack([each[:, areas == area].sum(-1) for area in range(4)], -1)
        assert (env._grid.safety_penalty(grid, 1.0) - owned).abs().max() < 1e-9
        outside = ((grid.v_pu[:, 1:] < 0.9499) | (grid.v_pu[:, 1:] > 1.0501)).any(-1) | (i2.sqrt() > 1.0001).any(-1)
        assert torch.equal(step.metrics["violating"].bool(), outside)
        penalties.append(torch.stack([s_v.amax(), s_l.amax()]))
    assert (torch.stack(penalties).amax(0) > 0).all()  # both kinds occur


def test_a_day_ends_terminated_and_starts_again() -> None:
    env = envs.make(num_envs=16)
    env.reset()
    energy, peak = env.obs_names.index("energy_mwh"), env.obs_names.index("peak_mw")
    for hour, step in enumerate(rollout(env, 48)):
        over = hour % 24 == 23
        assert bool(step.terminated.all()) == bool(step.terminated.any()) == over
        assert not step.truncated.any()
        assert torch.equal(step.obs, step.final_obs) == (not over)
        assert torch.equal(step.state, step.final_state) == (not over)
        if over:
            assert (step.obs[..., peak] == 0).all()
            assert (step.final_obs[..., peak] > 0).all()
            assert torch.equal(step.obs[..., energy], step.obs[..., energy + 1])


def test_a_week_is_truncated_runs_over_midnight_and_is_never_settled() -> None:
    env = envs.make(num_envs=8, horizon="week")
    assert env.needs_discount
    assert env.episode_length == 168
    env.reset()
    peak, left = env.obs_names.index("peak_mw"), env.obs_names.index("day_left_share")
    initial = env.obs_names.index("initial_energy_mwh")
    first_day = env.day.clone()
    assert (first_day % 7 == 0).all()
    start = env._account.initial_energy_mwh
    step = None
    for hour, step in enumerate(rollout(env, 168)):
        assert not step.terminated.any()
        assert bool(step.truncated.all()) == bool(step.truncated.any()) == (hour == 167)
        assert not step.metrics["terminal_usd"].any()
        midnight = hour % 24 == 23
        assert bool((step.final_obs[..., peak] == 0).all()) == midnight
        assert (step.final_obs[..., left] == 1.0).all() == midnight
        if hour < 167:
            assert torch.equal(env._account.initial_energy_mwh, start)
            assert torch.equal(env.day, first_day + (hour + 1) // 24)
            assert torch.equal(step.obs, step.final_obs)
    assert step is not None
    assert not torch.equal(step.obs, step.final_obs)
    assert torch.isfinite(step.final_obs[..., initial]).all()


def test_the_last_observation_of_a_week_is_what_going_on_would_show() -> None:
    env, longer = (envs.make(num_envs=4, horizon="week", seed=3) for _ in range(2))
    longer._days_per_episode = 14
    for one in (env, longer):
        one.reset()
    last, going_on = list(rollout(env, 168))[-1], list(rollout(longer, 168))[-1]
    assert last.truncated.all()
    assert not going_on.truncated.any()
    assert torch.equal(last.final_obs, going_on.obs)
    assert torch.equal(last.final_state, going_on.state)


def test_evaluation_copies_play_the_days_of_their_split_again_and_again() -> None:
    env = envs.make(split="test", evaluation=True)
    expected = [day for day in range(366) if day // 7 % 5 == 4]
    assert env.num_envs == 70
    first = env.reset()[0]
    assert env.day.tolist() == expected
    last = list(rollout(env, 24))[-1]
    assert env.day.tolist() == expected
    assert torch.equal(last.obs, first)
    week = envs.make(split="test", evaluation=True, horizon="week")
    assert week.num_envs == 10
    wrapped = envs.make(split="test", evaluation=True, num_envs=73)
    wrapped.reset()
    assert wrapped.day.tolist() == expected + expected[:3]


def test_same_seed_same_episodes_other_copies_and_seeds_differ() -> None:
    one, same, other = (envs.make(num_envs=6, seed=seed) for seed in (1, 1, 2))
    first, again, different = one.reset()[0], same.reset()[0], other.reset()[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, different)
    assert len({tuple(row.flatten().tolist()) for row in first}) == 6
    for step, twin in zip(rollout(one, 30), rollout(same, 30), strict=True):
        assert torch.equal(step.obs, twin.obs)
        assert torch.equal(step.rewards, twin.rewards)
    assert torch.equal(one.reset(1)[0], first)


@pytest.mark.parametrize("num_envs", [1, 2, 7])
def test_a_copy_does_not_depend_on_how_many_there_are(num_envs: int) -> None:
    full, part = envs.make(num_envs=64, seed=4, dtype="float64"), envs.make(num_envs=num_envs, seed=4, dtype="float64")
    assert torch.allclose(part.reset()[0], full.reset()[0][:num_envs], atol=1e-6)
    for t in range(50):  # into the third episode
        actions = random_actions(full, t)
        step, few = full.step(actions), part.step(actions[:num_envs])
        assert torch.equal(part.day, full.day[:num_envs])
        assert torch.equal(part._grid_state.tap, full._grid_state.tap[:num_envs])
        assert (few.obs - step.obs[:num_envs]).abs().max() < 2e-6
        assert (few.rewards - step.rewards[:num_envs]).abs().max() < 2e-6


def test_float32_and_float64_agree() -> None:
    single, double = (envs.make(split="val", evaluation=True, dtype=dtype) for dtype in ("float32", "float64"))
    single.reset()
    double.reset()
    for t in range(24):
        actions = random_actions(single, t)
        one, two = single.step(actions), double.step(actions)
        assert torch.equal(single._grid_state.tap.double(), double._grid_state.tap)
        assert (one.metrics["cost_usd"] - two.metrics["cost_usd"]).abs().max() < 0.01


def test_taps_are_kept_from_hour_to_hour() -> None:
    env = envs.make(num_envs=64)
    env.reset()
    for t in range(10):
        before = env._grid_state.tap
        step = env.step(random_actions(env, t))
        moved = (env._grid_state.tap - before).abs().sum(-1)
        assert torch.equal(step.metrics["tap_changes"], moved)
        assert moved.any()
        assert before.any()


@pytest.mark.parametrize("late", [False, True])
def test_a_failing_copy_is_flagged_billed_and_goes_on(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if late:
        hosts_run_ahead(monkeypatch)
    healthy, env = (envs.make(num_envs=5, seed=6, dtype="float64") for _ in range(2))
    for one in (healthy, env):
        one.reset()
        list(rollout(one, 3))
    before, price = env._grid_state, env._today.price[3]
    peak = env._account.peak_mw
    overload = env._today.load.clone()
    overload[3, 2] *= 3000.0
    env._today = env._today._replace(load=overload)
    expected, step = healthy.step(random_actions(env, 9)), env.step(random_actions(env, 9))
    others = torch.arange(5) != 2
    after = env._grid_state
    assert step.metrics["not_converged"].tolist() == [0, 0, 1, 0, 0]
    assert step.metrics["violating"][2] == 1
    assert torch.equal(after.tap[2], before.tap[2])
    assert torch.equal(after.v_pu[2], before.v_pu[2])
    head = consumption_mw(env, 3)[2].sum()
    assert step.metrics["head_peak_mw"][2].item() == pytest.approx(head.item())
    bill = price[2] * head + 100 * (head - peak[2]) + step.metrics["generator_usd"][2]
    assert step.metrics["cost_usd"][2].item() == pytest.approx(bill.item())
    assert step.metrics["penalty_usd"][2].item() == 2000.0
    assert not step.terminated.any()
    for name, value in step.metrics.items():
        assert torch.isfinite(value).all(), name
        assert torch.allclose(value[others], expected.metrics[name][others], rtol=1e-9, atol=1e-9), name
    assert torch.isfinite(step.obs).all()
    assert torch.equal(after.tap[others], healthy._grid_state.tap[others])
    going_on = env.step(random_actions(env, 10))
    assert not going_on.metrics["not_converged"].any()


def test_a_copy_that_fails_at_reset_starts_from_neutral_taps() -> None:
    env = envs.make(num_envs=2, feeder={"load_scale": 20.0, "load_profile": {"load_mv_semiurb": 50.0}})
    obs, state = env.reset()
    assert not env._grid_state.converged.any()
    assert not env._grid_state.tap.any()
    assert torch.isfinite(obs).all()
    assert torch.isfinite(state).all()
    step = env.step(random_actions(env, 0))
    assert step.metrics["not_converged"].all()
    assert torch.isfinite(step.rewards).all()


def test_bad_actions_are_named() -> None:
    env = envs.make(num_envs=2)
    with pytest.raises(ValueError, match=r"call reset\(\) before step\(\)"):
        env.step(torch.zeros(2, 3, 3))
    env.reset()
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 3, 3\) .*, got \(2, 3, 2\)"):
        env.step(torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match=r"or \(3, 3\) for all copies, got \(1, 3, 3\)"):
        env.step(torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="actions must be a tensor or an array of numbers"):
        env.step([[0.0, 1.0], [0.0]])  # pyright: ignore[reportArgumentType]
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=f"array of real numbers, got {dtype}"):
            env.step(torch.zeros(2, 3, 3, dtype=dtype))
    bad = torch.zeros(2, 3, 3)
    bad[1, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="must be finite, got nan for generator_p of MG3 in copy 1"):
        env.step(bad)


def test_infos_report_requested_and_applied_powers() -> None:
    env = envs.make(num_envs=1, split="val", evaluation=True)
    env.reset()
    actions = env.idle_action()[None].clone()
    actions[0, 0, 0] = 1.0
    step = [env.step(actions) for _ in range(3)][-1]
    assert env.requested["battery_p_mw"][0, 0].item() == pytest.approx(0.5)
    assert env.applied["battery_p_mw"][0, 0].item() == pytest.approx(0.02 / 0.98, abs=1e-5)
    assert step.metrics["battery_clipped_mw"].item() == pytest.approx(0.5 - 0.02 / 0.98, abs=1e-5)
