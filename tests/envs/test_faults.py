"""Faults in the env: what is dead, what is paid, what is seen, and that copies stay independent."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

import envs
from envs.devices import device_metrics
from envs.microgrid import MicrogridEnv
from tests.envs.devices.all_options import EVERYTHING, acting, random_actions
from tests.envs.fault_scenarios import FORMING, HEAD, ISLANDING, RANDOM, SPIKE, played, total, with_events
from tests.envs.test_resume import assert_same, steps

VALUE = 5000.0


def load_mw(env: MicrogridEnv, hour: int) -> Tensor:
    """(B, 1 + A) load that is asked for."""
    return env._today.load[hour] * env._grid.area_load_mw.to(env._today.load)


def test_no_events_leave_every_number_alone() -> None:
    plain = envs.make(num_envs=4, seed=3)
    never = envs.make(num_envs=4, seed=3, **with_events({**HEAD, "probability": 0.0}, {**SPIKE, "probability": 0.0}))
    assert "lost_load_usd" not in {spec.name for spec in plain.metric_specs}
    assert not any("event" in name or "live" in name for name in (*plain.obs_names, *plain.state_names))
    for one, two in zip(played(plain), played(never), strict=True):
        assert torch.equal(one.rewards, two.rewards)
        assert all(torch.equal(value, two.metrics[name]) for name, value in one.metrics.items())
        known = [never.obs_names.index(name) for name in plain.obs_names]
        assert torch.equal(one.obs, two.obs[..., known])


@pytest.mark.parametrize("grid_forming", [False, True])
def test_an_outage_at_the_feeder_head_blacks_everything_out(grid_forming: bool) -> None:
    outage = {**HEAD, "duration_h": [1, 1]}
    forming = FORMING if grid_forming else {}
    env = envs.make(num_envs=8, seed=3, dtype="float64", events=[outage], microgrids=forming)
    env.reset()
    for hour in range(6):
        env.step(random_actions(env, hour))
    before, energy = env._grid_state, env._account.energy_mwh
    step = env.step(random_actions(env, 6))
    demanded = load_mw(env, 6)
    state = env._grid_state
    assert (state.head_p_mw == 0).all()
    assert (state.party_p_mw == 0).all()
    assert (state.pcc_q_mvar == 0).all()
    assert torch.equal(state.tap, before.tap)
    living = step.metrics["islanded"]
    if not grid_forming:
        assert (living == 0).all()
        assert (step.metrics["de_energised"] == 1).all()
        assert torch.equal(env._account.energy_mwh, energy)
        assert all((env.applied[name] == 0).all() for name in env.applied)
        assert torch.allclose(step.metrics["unserved_mwh"], demanded.sum(-1), rtol=1e-12)
        constants = sum(grid.generator.cost_constant_usd_per_h for grid in env.scenario.microgrids.values())
        assert torch.allclose(step.metrics["cost_usd"], VALUE * demanded.sum(-1) + constants, rtol=1e-12)
        assert (step.metrics["penalty_usd"] == 0).all()
        assert (step.metrics["violating"] == 0).all()
        assert (state.loading_squared == 0).all()
    else:
        assert living.max() > 0
        served = (state.dead[:, 1:].sum(-1) < 71).double()
        assert ((living > 0).double() == served).all()
    after = env.step(random_actions(env, 7))
    assert (after.metrics["de_energised"] == 0).all()
    assert (after.metrics["lost_load_usd"] == 0).all()
    assert (env._grid_state.v_pu > 0.8).all()


def test_unserved_and_served_energy_are_the_demand() -> None:
    env = envs.make(num_envs=48, seed=3, dtype="float64", **with_events(*RANDOM))
    env.reset()
    net, seen = env.network, 0
    for hour in range(23):
        step = env.step(random_actions(env, hour))
        state = env._grid_state
        if not state.dead.shape[1]:
            continue
        multiplier = env._today.load[hour]
        by_bus = multiplier[:, [env._grid.area_names.index(area) for area in net.areas]] * net.load_p_mw
        served = (by_bus * ~state.dead).sum(-1)
        assert torch.allclose(served + step.metrics["unserved_mwh"], by_bus.sum(-1), rtol=1e-12)
        # power at the head and of the islands' batteries covers what is served, with losses
        losses = (state.loading_squared[:, 1:] * net.rating_pu[1:].square() * net.z_pu[1:].real).sum(-1)
        produced = torch.stack([env.applied[f"{kind}_p_mw"] for kind in ("generator", "pv", "wind")]).sum(0)
        needed = served + env.applied["battery_p_mw"].sum(-1) - produced.sum(-1)
        alone = step.metrics["islanded"] == 0
        assert (state.head_p_mw - needed - losses)[alone].abs().max() < 1e-8
        # inside an island branches are looked at from the battery: only a transformer's side may differ
        assert (state.head_p_mw - needed - losses).abs().max() < 1e-3
        seen += int((~alone).sum())
    assert seen > 20


def test_money_balances_under_faults() -> None:
    env = envs.make(num_envs=48, seed=3, dtype="float64", **with_events(*RANDOM))
    day = played(env)
    for step in day:
        metrics = step.metrics
        shared = -(metrics["cost_usd"] + metrics["penalty_usd"]) / (100 * 3)
        assert torch.allclose(step.rewards.double().mean(-1), shared, rtol=1e-5, atol=1e-6)
        parts = ("energy", "generator", "demand", "terminal", "lost_load")
        assert torch.allclose(
            metrics["cost_usd"], torch.stack([metrics[f"{name}_usd"] for name in parts]).sum(0), rtol=1e-12
        )
        assert torch.allclose(metrics["lost_load_usd"], VALUE * metrics["unserved_mwh"], rtol=1e-9)
    for name in ("lost_load_usd", "de_energised", "islanded"):
        assert (total(day, name) > 0).any()


def test_the_owner_of_a_dead_load_pays_for_it() -> None:
    outage = {**HEAD, "start_h": [0, 0], "targets": ["MG2.Substation"]}
    dark, plain = (envs.make(num_envs=2, seed=3, dtype="float64", events=e) for e in ([outage], []))
    one, two = played(dark, 1)[0], played(plain, 1)[0]
    lost = VALUE * load_mw(dark, 0)[:, 2]
    assert torch.allclose(one.metrics["lost_load_usd"], lost)
    extra = (two.rewards - one.rewards) * 100
    assert (extra[:, 1] > 0.9 * lost).all()
    assert (extra[:, [0, 2]].abs() < 0.1 * lost[:, None]).all()


@pytest.mark.parametrize("options", [False, True])
def test_copies_equal_singles(options: bool) -> None:
    events = with_events(*RANDOM)
    if options:
        events |= {"microgrids": merged_options(), "curtailment": True}
    # in float32 the number of rows changes the rounding of a matrix product
    env = envs.make(num_envs=12, evaluation=True, seed=4, dtype="float64", **events)
    env.reset()
    few = envs.make(num_envs=3, evaluation=True, seed=4, dtype="float64", **events)
    few.reset()
    hit = 0.0
    for hour in range(24):
        actions = random_actions(env, hour)
        one, two = env.step(actions), few.step(actions[:3])
        assert torch.allclose(one.rewards[:3], two.rewards, rtol=1e-6, atol=1e-7)
        for name, value in two.metrics.items():
            assert torch.allclose(one.metrics[name][:3], value, rtol=1e-9, atol=1e-9), name
        assert torch.allclose(one.obs[:3], two.obs, atol=1e-6)
        for name, value in few.applied.items():
            assert torch.allclose(env.applied[name][:3], value, atol=1e-9), name
        hit += float(two.metrics["de_energised"].sum() + two.metrics["islanded"].sum())
    assert hit > 0


def merged_options() -> dict[str, Any]:
    return {
        name: {**options, "battery": {**options.get("battery", {}), "grid_forming": True}}
        for name, options in EVERYTHING["microgrids"].items()
    }


def test_options_of_devices_and_faults_live_together() -> None:
    events = {"events": RANDOM, "microgrids": merged_options(), "curtailment": True}
    env = envs.make(num_envs=64, seed=4, **events)
    assert device_metrics(env.scenario)
    assert {spec.name for spec in env.metric_specs} == set(played(env, 1)[0].metrics)
    for t in range(48):
        step = env.step(random_actions(env, t))
        assert step.obs.isfinite().all()
        assert step.state.isfinite().all()
        assert step.rewards.isfinite().all()
        shared = -(step.metrics["cost_usd"] + step.metrics["penalty_usd"]) / (100 * 3)
        assert torch.allclose(step.rewards.mean(-1), shared, rtol=1e-4, atol=1e-4)
        off = env._grid_state.dead
        if off.shape[1]:
            for kind, buses in env._faults._buses.items():
                assert (env.applied[f"{kind}_p_mw"][off[:, buses]] == 0).all()
            plants = torch.cat([off[:, env._faults._buses[kind]] for kind in ("pv", "wind")], -1)
            q_mvar = torch.cat([env.applied["pv_q_mvar"], env.applied["wind_q_mvar"]], -1)
            assert (q_mvar[plants] == 0).all()
            wear = torch.tensor([4.0, 0.0, 2.0]) * env.applied["battery_p_mw"].abs()
            assert torch.allclose(step.metrics["degradation_usd"], wear.sum(-1), atol=1e-5)


def test_an_island_lives_from_its_battery_alone() -> None:
    env = envs.make(num_envs=16, seed=4, dtype="float64", **with_events(ISLANDING))
    env.reset()
    lived = 0
    for hour in range(23):
        energy = env._account.energy_mwh
        step = env.step(random_actions(env, hour))
        state, p_mw = env._grid_state, env.applied["battery_p_mw"]
        assert (state.party_p_mw[:, 1:] == 0).all()
        assert (state.pcc_q_mvar == 0).all()
        alive = ~state.dead[:, [env.network.area_starts[name] for name in env.scenario.microgrids]]
        assert torch.equal(alive.sum(-1).double(), step.metrics["islanded"])
        assert (p_mw[~alive] == 0).all()
        change = env._account.energy_mwh - energy
        assert torch.allclose(change, p_mw.clamp(min=0) * 0.98 - (-p_mw).clamp(min=0) / 0.98, atol=2e-5)
        apparent = (p_mw.square() + env.applied["battery_q_mvar"].square()).sqrt()
        assert apparent.max() < 0.6 + 1e-4
        at = env._faults._buses["battery"]
        assert (state.v_pu[:, at][alive] == 1).all()
        assert (state.v_pu[:, at][~alive] == 0).all()
        lived += int(alive.sum())
    assert 50 < lived < 16 * 23 * 3


def test_an_idle_generator_is_paid_for_what_it_gives() -> None:
    env = envs.make(num_envs=4, seed=4, dtype="float64", events=[ISLANDING])
    env.reset()
    step = env.step(acting(env, generator_p=1.0))
    constants = sum(grid.generator.cost_constant_usd_per_h for grid in env.scenario.microgrids.values())
    assert (env.applied["generator_p_mw"] == 0).all()
    assert (env.requested["generator_p_mw"] > 0).all()
    assert torch.allclose(step.metrics["generator_usd"], torch.full((4,), constants, dtype=torch.float64))


@pytest.mark.parametrize(("horizon", "at", "end"), [("day", 7, 60), ("week", 60, 130)])
def test_resuming_under_faults_equals_not_stopping(horizon: str, at: int, end: int) -> None:
    keywords = with_events(*RANDOM, horizon=horizon)
    env = envs.make(num_envs=6, seed=9, **keywords)
    env.reset()
    steps(env, 0, at)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other = envs.make(num_envs=6, seed=1, **keywords)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(steps(other, at, end), steps(env, at, end))


def test_an_evaluation_meets_the_same_events_each_time() -> None:
    env = envs.make(split="val", evaluation=True, seed=2, **with_events(*RANDOM))
    first, second = played(env), played(env)
    assert_same(first[:23], second[:23])
    assert (total(first, "lost_load_usd") > 0).any()


def test_steps_without_a_fault_solve_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    env = envs.make(num_envs=4, seed=3, **with_events({**HEAD, "start_h": [3, 3], "duration_h": [1, 1]}))
    env.reset()
    calls: list[int] = []
    hour = 0
    for island in env._faults._islands.values():
        settle = island.settle
        monkeypatch.setattr(island, "settle", lambda *a, settle=settle: (calls.append(hour), settle(*a))[1])
    for hour in range(6):
        env.step(random_actions(env, hour))
        assert env._grid_state.dead.shape[1] == (72 if hour == 3 else 0)
    assert calls == [3, 3, 3]


def test_a_failed_flow_keeps_its_rule_under_a_fault() -> None:
    outage = {**HEAD, "start_h": [0, 0], "targets": ["DSO.834-860"]}
    env = envs.make(num_envs=3, seed=3, dtype="float64", **with_events(outage))
    env.reset()
    env._today.load[0][1, 0] = 400.0
    step = env.step(env.idle_action())
    assert step.metrics["not_converged"].tolist() == [0, 1, 0]
    assert step.obs.isfinite().all()
    assert env._grid_state.v_pu.isfinite().all()
    assert step.metrics["penalty_usd"][1] == 2000
    assert step.metrics["islanded"][1] == step.metrics["islanded"][0] == 1
