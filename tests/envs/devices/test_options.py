"""All options of the devices together, in the env and with what acts on it."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import envs
from envs.baselines import BASELINES, make_baseline
from envs.devices import device_metrics
from envs.microgrid import MicrogridEnv
from envs.scenario import load_scenario
from mappo import TrainConfig, Trainer
from tests.envs.devices.all_options import (
    BY_ACTION,
    COMMITMENT,
    EVERYTHING,
    SHEDDING,
    SHIFTABLE,
    VOLT_VAR,
    random_actions,
)

with warnings.catch_warnings():  # importing the contract tests imports PettingZoo's own deprecated games
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="The old environment creation API")
    from pettingzoo.test import parallel_api_test

HARMLESS: dict[str, dict[str, Any]] = {
    "degradation_usd_per_mwh": {"battery": {"degradation_usd_per_mwh": 0.0}},
    "commitment": {"generator": {"commitment": None}},
    "ramp": {"generator": {"ramp_mw_per_h": None}},
    "inverter": {"pv": {"inverter": None}, "wind": {"inverter": None}},
    "load_shedding": {"load_shedding": None},
    "shiftable": {"shiftable": None},
}


@pytest.mark.parametrize("option", HARMLESS)
def test_an_option_that_is_off_leaves_every_number_alone(option: str) -> None:
    off, plain = envs.make(num_envs=4, seed=5, microgrids={"MG1": HARMLESS[option]}), envs.make(num_envs=4, seed=5)
    assert off.scenario == plain.scenario
    assert (off.action_names, off.obs_names, off.state_names) == (
        plain.action_names,
        plain.obs_names,
        plain.state_names,
    )
    assert plain.action_names == ("battery_p", "generator_p", "battery_q")
    assert torch.equal(off.reset()[0], plain.reset()[0])
    for t in range(30):
        one, two = off.step(random_actions(off, t)), plain.step(random_actions(plain, t))
        assert torch.equal(one.obs, two.obs)
        assert torch.equal(one.state, two.state)
        assert torch.equal(one.rewards, two.rewards)
        assert one.metrics.keys() == two.metrics.keys()


GENTLE: dict[str, dict[str, Any]] = {
    "ramp": {"generator": {"ramp_mw_per_h": 100.0}},
    "commitment": {"generator": {"commitment": {"p_min_mw": 0.0, "initially_on": True}}},
    "power_factor": {"pv": {"inverter": {"s_max_mva": 0.5, "mode": "power_factor"}}},
    "action": {"wind": {"inverter": {"s_max_mva": 0.5, "mode": "action"}}},
    "shed": {"load_shedding": SHEDDING},
    "shift": {"shiftable": SHIFTABLE},
}


@pytest.mark.parametrize("option", GENTLE)
def test_an_option_that_is_on_but_not_used_changes_no_reward(option: str) -> None:
    env, plain = envs.make(num_envs=4, seed=5, microgrids={"MG1": GENTLE[option]}), envs.make(num_envs=4, seed=5)
    env.reset()
    plain.reset()
    for t in range(24):
        actions = random_actions(plain, t)
        wider = env.idle_action().expand(4, -1, -1).clone()
        wider[..., :3] = actions
        if option == "commitment":
            wider[..., -1] = 1.0
        assert torch.equal(env.step(wider).rewards, plain.step(actions).rewards)


def everything(**settings: Any) -> MicrogridEnv:
    return envs.make(**{**copy.deepcopy(EVERYTHING), **settings})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_with_everything_on_days_are_finite_bounded_and_their_money_adds_up(dtype: str) -> None:
    env = everything(num_envs=16, dtype=dtype)
    rewards_env = everything(num_envs=16, dtype=dtype, settlement="individual")
    specs = {spec.name for spec in env.metric_specs}
    for each in (env, rewards_env):
        obs, state = each.reset(3)
        for t in range(3 * 24):
            step = each.step(random_actions(each, t))
            for values in (step.obs, step.state, step.rewards, *step.metrics.values()):
                assert torch.isfinite(values).all()
            assert step.obs.shape == obs.shape
            assert len(each.state_names) == state.shape[1]
            assert len(each.obs_names) == obs.shape[2]
            assert set(step.metrics) == specs
            energy, state_after = each._account.energy_mwh, each._device_state
            assert energy.min() >= 0.2 - 1e-6
            assert energy.max() <= 2.0 + 1e-6
            assert state_after.backlog_mwh.min() >= 0
            assert state_after.backlog_mwh.max() <= 0.3 + 1e-6
            community = -(step.metrics["cost_usd"] + step.metrics["penalty_usd"]) / (100 * 3)
            assert torch.allclose(step.rewards.mean(-1), community.float(), rtol=1e-4, atol=1e-4)
    assert specs >= {spec.name for spec in device_metrics(env.scenario)}


def test_every_dollar_of_the_options_is_in_the_cost() -> None:
    env = everything(num_envs=8, dtype="float64")
    env.reset(1)
    parts = ("energy", "generator", "demand", "terminal", "commitment", "degradation", "shedding")
    seen = dict.fromkeys(parts, 0.0)
    for t in range(24):
        metrics = env.step(random_actions(env, t)).metrics
        total = torch.stack([metrics[f"{part}_usd"] for part in parts]).sum(0)
        assert torch.allclose(total, metrics["cost_usd"])
        seen = {part: seen[part] + metrics[f"{part}_usd"].sum().item() for part in parts}
    assert min(seen.values()) > 0


def test_wear_costs_each_owner_its_throughput_on_the_ac_side() -> None:
    env = everything(num_envs=4, dtype="float64", episode={"reward_scale_usd": 1.0})
    env.reset(1)
    metrics = env.step(random_actions(env, 0)).metrics
    moved_mwh = env.applied["battery_p_mw"].abs()
    assert torch.allclose(metrics["degradation_usd"], moved_mwh @ torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64))


def test_one_copy_plays_what_it_plays_among_many() -> None:
    many, one = everything(num_envs=8, seed=2), everything(num_envs=1, seed=2)
    a, b = many.reset()[0], one.reset()[0]
    for t in range(60):
        actions = random_actions(many, t)
        assert torch.allclose(a[0], b[0], atol=2e-4)
        step_a, step_b = many.step(actions), one.step(actions[:1])
        assert torch.allclose(step_a.rewards[0], step_b.rewards[0], atol=1e-3)
        a, b = step_a.obs, step_b.obs


@pytest.mark.parametrize(("horizon", "at", "end"), [("day", 7, 40), ("week", 30, 60)])
def test_resuming_with_everything_on_equals_not_stopping(horizon: str, at: int, end: int) -> None:
    env, other = everything(num_envs=4, horizon=horizon, seed=9), everything(num_envs=4, horizon=horizon, seed=1)
    env.reset()
    for t in range(at):
        env.step(random_actions(env, t))
    other.load_state_dict(copy.deepcopy(env.state_dict()))
    for t in range(at, end):
        one, two = env.step(random_actions(env, t)), other.step(random_actions(env, t))
        for name in ("obs", "state", "rewards"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name


def test_a_week_carries_the_state_of_the_units_over_midnight() -> None:
    env = everything(num_envs=1, horizon="week")
    env.reset()
    action = env.idle_action()
    action[:, env.action_names.index("commit")] = 1
    for _ in range(24):
        env.step(action)
    assert env._device_state.unit_on.all()
    assert env._device_state.generator_p_mw[0, :2].min() >= 0.2


def test_the_parallel_view_keeps_its_contract_and_reports_what_was_applied() -> None:
    view = envs.parallel_env(seed=1, **copy.deepcopy(EVERYTHING))
    parallel_api_test(view, num_cycles=60)
    view.reset(seed=1)
    actions = {agent: view.action_space(agent).sample() for agent in view.agents}
    infos = view.step(actions)[-1]["MG1"]
    more = {"generator_on", "pv_q_mvar", "wind_q_mvar", "shed_mw", "shift_mw"}
    for part in ("requested", "applied", "clipped"):
        assert set(infos[part]) > more


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_act_with_everything_on(name: str) -> None:
    if name in ("mpc", "copper-plate", "selfish", "selfish-no-peak"):
        pytest.importorskip("cvxpy")
    env = everything(num_envs=2, evaluation=True, split="test")
    obs, _ = env.reset()
    baseline = make_baseline(name, env, **({"workers": 1} if name == "mpc" else {}))
    for _ in range(3):
        step = env.step(baseline.act(obs))
        obs = step.obs
        assert torch.isfinite(step.rewards).all()
        if name != "random":
            for unused in ("shed_mw", "shift_mw"):
                assert not env.applied[unused].any()


def test_set_points_switch_the_generators() -> None:
    env = everything(num_envs=1, dtype="float64")
    env.reset()
    zero = torch.zeros(1, 3, dtype=torch.float64)
    wanted = env._devices.requested(env.idle_action()[None].double(), zero, zero)
    for p_mw, on in ((0.0, 0.0), (0.09, 0.0), (0.11, 1.0), (0.4, 1.0)):
        actions = env.actions_for(wanted._replace(generator_p_mw=zero + p_mw))
        assert actions[0, :2, env.action_names.index("commit")].tolist() == [on, on]


def test_training_runs_with_everything_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iterations": 1, "hidden_dim": 8, "num_minibatches": 1, "tensorboard": False}
    Trainer(everything(num_envs=4), TrainConfig(runs_dir=str(tmp_path), **settings)).train()


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"pv": {"inverter": VOLT_VAR}}, r"MG2\.pv\.inverter"),
        ({"wind": {"inverter": BY_ACTION}}, r"MG2\.wind\.inverter"),
        ({"load_shedding": SHEDDING}, r"MG2\.load_shedding"),
        ({"shiftable": SHIFTABLE}, r"MG2\.shiftable"),
    ],
)
def test_a_bound_is_refused_where_an_option_enlarges_what_a_policy_can_do(part: dict[str, Any], key: str) -> None:
    pytest.importorskip("cvxpy")
    from envs.baselines import certified_bound

    with pytest.raises(ValueError, match=f"a bound does not cover microgrids.{key}"):
        certified_bound("ieee34_ieee13", "test", days=1, cache=False, microgrids={"MG2": part})


def test_a_bound_stays_below_what_restricted_devices_reach() -> None:
    pytest.importorskip("cvxpy")
    from envs.baselines import certified_bound
    from envs.baselines.schedule import day_costs

    part = {
        "generator": {"commitment": {**COMMITMENT, "p_min_mw": 0.05}, "ramp_mw_per_h": 0.3},
        "battery": {"degradation_usd_per_mwh": 2.0},
    }
    overrides: dict[str, Any] = {"microgrids": {name: part for name in ("MG1", "MG2", "MG3")}}
    found = certified_bound("ieee34_ieee13", "test", days=1, cache=False, workers=1, **overrides)
    plain = certified_bound("ieee34_ieee13", "test", days=1, cache=False, workers=1)
    assert plain.usd.item() - found.usd.item() == pytest.approx(24 * (0.5011 + 2 * 0.4615), abs=0.01)  # the constants
    env = envs.make(num_envs=1, evaluation=True, split="test", dtype="float64", **overrides)
    assert day_costs(env, found.schedule).item() > found.usd.item()
    env.reset()
    idle = sum(env.step(env.idle_action()).metrics["cost_usd"].item() for _ in range(24))
    assert idle > found.usd.item()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"generator": {"commitment": {"p_min_mw": 0.9}}}, r"commitment\.p_min_mw must be at most p_max_mw, got 0\.9"),
        (
            {"generator": {"commitment": {"p_min_mw": 0.1, "start_h": 0.5}}},
            r"commitment\.start_h must be a whole number",
        ),
        ({"generator": {"commitment": {"p_min_mw": 0.1, "min_up_h": 240}}}, "looks like minutes"),
        ({"generator": {"commitment": {"p_min_mw": 0.1, "cost": 1}}}, r"unknown key .*commitment\.cost"),
        ({"generator": {"ramp_mw_per_h": 0}}, r"ramp_mw_per_h.*greater than 0"),
        ({"battery": {"degradation_usd_per_mwh": -1}}, r"degradation_usd_per_mwh.*greater than or equal to 0"),
        ({"pv": {"inverter": {**VOLT_VAR, "s_max_mva": 0.1}}}, r"inverter\.s_max_mva must be at least p_max_mw"),
        ({"pv": {"inverter": {**VOLT_VAR, "v_pu": [1, 0.9, 1.1, 1.2]}}}, "v_pu must rise"),
        ({"pv": {"inverter": {**VOLT_VAR, "q_share": [0, 0.1, 0.1, 0]}}}, "q_share must not rise"),
        ({"pv": {"inverter": {**VOLT_VAR, "power_factor": 0.9}}}, "power_factor belongs to mode power_factor"),
        ({"load_shedding": {"max_share": 1.5, "usd_per_mwh": 1}}, "max_share.*less than or equal to 1"),
        ({"shiftable": {"share": 0.2, "max_backlog_mwh": 2000}}, "looks like kWh"),
    ],
)
def test_a_wrong_option_is_named(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_scenario("ieee34_ieee13", {"microgrids": {"MG1": part}})
