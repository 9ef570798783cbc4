"""Events as the env shows and bills them: spikes, dips, observations, other interfaces, errors."""

import warnings
from typing import Any

import pytest
import torch

import envs
from envs.baselines import make_baseline
from tests.envs.devices.all_options import random_actions
from tests.envs.fault_scenarios import DIP, HEAD, ISLANDING, RANDOM, SPIKE, played, with_events

with warnings.catch_warnings():  # importing the contract tests imports PettingZoo's own deprecated games
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="The old environment creation API")
    from pettingzoo.test import parallel_api_test


def test_a_spike_changes_the_bill_only() -> None:
    spiked, plain = (envs.make(num_envs=8, seed=3, dtype="float64", events=e) for e in ([SPIKE], []))
    bills = {"energy_usd", "cost_usd", "terminal_usd", "feeder_usd"}  # the terminal rule knows the day's highest price
    for hour, (one, two) in enumerate(zip(played(spiked), played(plain), strict=True)):
        for name, value in two.metrics.items():
            same = torch.equal(one.metrics[name], value)
            assert same or (name in bills and hour in (17, 18, 19, 23)), name
        if hour in (17, 18, 19):
            assert torch.allclose(one.metrics["energy_usd"], 3 * two.metrics["energy_usd"])
            assert (one.metrics["lost_load_usd"] == 0).all()


def test_a_spike_is_known_the_day_ahead() -> None:
    env = envs.make(num_envs=2, seed=3, events=[SPIKE])
    obs, _ = env.reset()
    columns = dict(zip(env.obs_names, obs[0, 0].tolist(), strict=True))
    day = env._today.price[:, 0]
    assert columns["rest_price_max_usd_per_mwh"] == pytest.approx((float(day.max()) - 60) / 60, abs=1e-5)
    assert columns["event_price_spike"] == 0
    assert "area_live_share" not in columns


def test_a_dip_reduces_pv_only() -> None:
    dipped, plain = (envs.make(num_envs=8, seed=3, events=e) for e in ([DIP], []))
    dipped.reset()
    plain.reset()
    for hour in range(23):
        dipped.step(random_actions(dipped, hour))
        plain.step(random_actions(plain, hour))
        kept = 0.4 if hour in (11, 12, 13) else 1.0
        assert torch.allclose(dipped.applied["pv_p_mw"], kept * plain.applied["pv_p_mw"])
        for name in ("wind_p_mw", "generator_p_mw", "battery_p_mw"):
            assert torch.equal(dipped.applied[name], plain.applied[name])


def test_what_has_begun_is_observed() -> None:
    outage = {**HEAD, "start_h": [2, 2], "targets": ["DSO.834-860"]}
    events = [outage, {**ISLANDING, "start_h": [3, 3], "duration_h": [2, 2], "targets": ["MG1"]}]
    env = envs.make(num_envs=2, seed=3, events=events)
    obs, state = env.reset()
    rows = []
    for hour in range(6):
        own = dict(zip(env.obs_names, obs[0].T.tolist(), strict=True))
        whole = dict(zip(env.state_names, state[0].tolist(), strict=True))
        rows.append(own)
        assert whole["event_outage_DSO.834-860"] == float(hour in (2, 3))
        assert whole["MG1.event_islanded"] == own["event_islanded"][0] == float(hour in (3, 4))
        assert own["event_outage_share"] == [float(hour in (2, 3))] * 3
        assert whole["MG3.area_live_share"] == own["area_live_share"][2] == float(hour not in (3, 4))
        assert own["area_live_share"][:2] == [float(hour not in (4, 5)), 1.0]
        step = env.step(random_actions(env, hour))
        obs, state = step.obs, step.state
    assert rows[3]["pcc_v_pu"][2] == rows[3]["area_v_min_pu"][2] == 0.0  # dead: neutral


def test_parallel_api_under_events() -> None:
    parallel_api_test(envs.parallel_env("ieee34_ieee13", **with_events(*RANDOM)), num_cycles=30)


@pytest.mark.parametrize("name", ["idle", "greedy", "mpc"])
def test_baselines_act_under_events(name: str) -> None:
    env = envs.make(num_envs=2, evaluation=True, split="val", **with_events(*RANDOM))
    policy = make_baseline(name, env)
    obs, _ = env.reset()
    for _ in range(3):
        step = env.step(policy.act(obs))
        obs = step.obs
        assert step.rewards.isfinite().all()


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([{**HEAD, "targets": ["DSO.800-803"]}], "target 'DSO.800-803' of outage is no branch; near names are DSO.80"),
        ([{**HEAD, "targets": [""]}], "target '' of outage is no branch"),
        ([{**ISLANDING, "targets": ["MG4"]}], "target 'MG4' of islanding is no microgrid; near names are MG"),
        ([{**SPIKE, "durration_h": 3}], r"unknown key 'events\.0.*durration_h'"),
        ([{**SPIKE, "start_h": [17.5, 17.5]}], "start_h of price_spike must be whole steps of 1 h"),
    ],
)
def test_events_that_cannot_be_are_named(events: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        envs.make(events=events)
