"""All options of devices, faults, protocols and the DSO in one scenario: what must hold whatever they do together."""

import io
from typing import Any

import pytest
import torch

import envs
from envs.microgrid import MicrogridEnv
from mappo.vec_env import Step
from tests.envs.devices.all_options import EVERYTHING, random_actions
from tests.envs.fault_scenarios import RANDOM

TRADING = {"vertical": "price_signal", "horizontal": "p2p", "p2p": {"bids": "action"}}
AGREEING = {"vertical": "setpoint", "horizontal": "consensus", "setpoint": {"capacity_mw": 1.0}}
CASES: dict[str, dict[str, Any]] = {
    "trading": {"settlement": "individual", "protocols": TRADING},
    "agreeing in quarter hours": {"protocols": AGREEING, "dt_h": 0.25},
    "a week": {"settlement": "individual", "protocols": AGREEING | {"vertical": "price_signal"}, "horizon": "week"},
}


def everything(case: dict[str, Any]) -> dict[str, Any]:
    """Keys of a scenario with all options and those of a case."""
    options = EVERYTHING["microgrids"]
    microgrids = {
        name: {**own, "battery": {**own.get("battery", {}), "grid_forming": True}} for name, own in options.items()
    }
    return {**EVERYTHING, "microgrids": microgrids, "dso_agent": {}, "events": RANDOM, **case}


def make(num_envs: int, case: dict[str, Any]) -> MicrogridEnv:
    return envs.make(num_envs=num_envs, split="val", evaluation=True, dtype="float64", **everything(case))


def _assert_close(step: Step, other: Step, copies: slice, within: float) -> None:
    names = ("obs", "state", "rewards", "terminated", "truncated", "final_obs")
    pairs = [(getattr(step, name)[copies], getattr(other, name), name) for name in names]
    pairs += [(value[copies], other.metrics[name], name) for name, value in step.metrics.items()]
    for mine, its, name in pairs:
        torch.testing.assert_close(mine, its, rtol=0.0, atol=within if mine.is_floating_point() else 0, msg=name)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_copies_are_independent_a_resume_is_exact_and_rewards_are_all_of_the_money(case: dict[str, Any]) -> None:
    env, first, resumed = make(4, case), make(1, case), make(4, case)
    env.reset()
    first.reset()
    resumed.reset()
    for t in range(30):
        actions = random_actions(env, t)
        step = env.step(actions)
        _assert_close(step, first.step(actions[:1]), slice(1), within=1e-6)  # a product of one column rounds otherwise
        if t > 11:
            _assert_close(step, resumed.step(actions), slice(None), within=0.0)
        if t == 11:
            file = io.BytesIO()
            torch.save(env.state_dict(), file)
            file.seek(0)
            resumed.load_state_dict(torch.load(file, weights_only=True))
        assert all(values.isfinite().all() for values in (step.obs, step.state, *step.metrics.values()))
        total = (step.metrics["cost_usd"] + step.metrics["penalty_usd"]).float()
        paid = -step.rewards.sum(-1) * 100.0
        torch.testing.assert_close(paid, total, rtol=1e-5, atol=1e-3)
