"""No step of an env or a rollout reads what a device computes; with a GPU, the host would wait for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental import _config as config

import envs
import mappo.targets
import mappo.trainer
from envs.power import solving
from mappo import TrainConfig, Trainer
from tests.envs.devices.all_options import random_actions
from tests.envs.test_everything_together import AGREEING, TRADING, everything
from tests.unreadable import OneDevice, hosts_run_ahead, reading, use_meta_as_accelerator

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "shared bids": {"scenario": "p2p_trading_3mg"},
    "trading": everything({"settlement": "individual", "protocols": TRADING}),
    "agreeing": everything({"protocols": AGREEING}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_steps_read_nothing_that_the_device_computes(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solving, "COMPACT_FROM", 1)
    use_meta_as_accelerator(monkeypatch)
    with reading(monkeypatch):
        env = envs.make(num_envs=16, seed=1, device="meta", group_size=8, **case)
        trainer = Trainer(env, TrainConfig(num_steps=3, num_minibatches=1))
    trainer.rollout.start()
    env._hour = 22  # collected beyond midnight
    with OneDevice():
        trainer.rollout.collect(trainer.buffer, trainer.generator)
    assert env._hour == 1
    assert trainer.buffer.rewards.is_meta
    # once an iteration the host asks which episodes were cut, whether what was gathered is finite, and for all metrics
    asked, final_values = list[str](), mappo.targets._final_values

    def all_cut(*args: Any) -> object:
        asked.append("cut")
        with config.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
            return final_values(*args)

    monkeypatch.setattr(mappo.targets, "_final_values", all_cut)
    monkeypatch.setattr(mappo.trainer, "check_inputs", lambda *_: asked.append("finite"))
    monkeypatch.setattr(mappo.trainer, "to_floats", lambda told: {"all": all(value.is_meta for value in told.values())})
    with OneDevice():
        assert trainer.learn()["all"]
    assert sorted(asked) == ["cut", "finite"]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: there[here],
        lambda here, there: there.index_add_(0, here, there),
        lambda here, there: here.to("meta"),
        lambda here, there: there.copy_(here),
    ],
    ids=["index", "index of a sum", "transfer", "copy"],
)
def test_what_mixes_devices_is_seen(mixed: Callable[[Tensor, Tensor], Tensor]) -> None:
    here, there = torch.arange(3), torch.zeros(3, device="meta")
    with OneDevice(), pytest.raises(RuntimeError, match="takes tensors on cpu and meta"):
        mixed(here, there)


def test_a_mask_as_an_index_is_seen() -> None:
    values = torch.zeros(3, device="meta")
    with OneDevice(), pytest.raises(RuntimeError, match="counts the entries of a mask"):
        values[values > 0] = values[:1]


def test_copies_that_do_not_wait_are_let_through() -> None:
    here, there = torch.arange(3), torch.zeros(3, device="meta")
    with OneDevice():
        there.copy_(here, non_blocking=True)
        assert here.to("meta", non_blocking=True).is_meta


def test_a_host_that_does_not_run_ahead_reads_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        use_meta_as_accelerator(patch)
        with reading(patch):
            env = envs.make(num_envs=2, seed=1, device="meta")
        env.reset()
        assert env._grid._solver.behind
        monkeypatch.setattr(env._grid._solver, "behind", False)
    with pytest.raises(RuntimeError, match="meta") as error:
        env.step(torch.zeros(env.action_shape))  # on the CPU, where they are checked at once
    assert "learn" in [entry.name for entry in error.traceback]


@pytest.mark.parametrize("case", ["default", "trading"])
def test_a_host_that_runs_ahead_steps_the_same_copies(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"num_envs": 30, "seed": 1, "dtype": "float64", **CASES[case]}
    monkeypatch.setattr(solving, "COMPACT_FROM", 1)
    known = envs.make(**keys)
    hosts_run_ahead(monkeypatch)
    late = envs.make(**keys)
    assert torch.equal(late.reset()[0], known.reset()[0])
    for t in range(30):  # beyond midnight
        actions = random_actions(known, t)
        step, expected = late.step(actions), known.step(actions)
        for name in ("obs", "state", "rewards", "final_obs"):
            torch.testing.assert_close(getattr(step, name), getattr(expected, name), rtol=0, atol=1e-6, msg=name)
        for name, value in expected.metrics.items():
            torch.testing.assert_close(step.metrics[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_actions_on_a_device_that_runs_behind_are_refused_one_step_later(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts_run_ahead(monkeypatch)
    env = envs.make(num_envs=2, seed=1)
    env.reset()
    actions = torch.zeros(env.action_shape)
    actions[1, 2, 0] = torch.nan
    env.step(actions)
    with pytest.raises(ValueError, match=r"must be finite, got nan for battery_p of MG3 in copy 1 in the step before"):
        env.step(torch.zeros(env.action_shape))
    env.step(actions)
    env.reset()
    for _ in range(23):
        env.step(torch.zeros(env.action_shape))  # nothing is said of episodes that are over
    with pytest.raises(ValueError, match=r"must be finite, got nan for battery_p of MG3 in copy 1$"):
        env.step(actions)  # the last of its episode


@pytest.mark.parametrize("index", [99.0, torch.nan, -1.0])
def test_a_choice_that_is_no_option_does_no_harm_before_it_is_refused(
    index: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts_run_ahead(monkeypatch)
    env = envs.make(num_envs=2, seed=1, dso_agent={})
    env.reset()
    actions = env.idle_action().expand(env.action_shape).clone()
    actions[1, -1, -1] = index
    assert env.step(actions).rewards.isfinite().all()
    actions.zero_()
    with pytest.raises(ValueError, match=f"got {index} for .* of DSO in copy 1 in the step before this one"):
        env.step(actions)
