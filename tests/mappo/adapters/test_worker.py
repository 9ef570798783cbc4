import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mappo.adapters import PettingZooVecEnv
from tests.mappo.adapters.conftest import Children
from tests.mappo.adapters.test_pettingzoo import play
from tests.toy_parallel import BrokenEnv, MaskedEnv, MortalParallelEnv, NestedEnv, ToyParallelEnv, fail, vanish

pytestmark = pytest.mark.usefixtures("new_children")


class ManyEnv(NestedEnv):
    """Episodes of random length, so that copies end at different steps."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.horizon = 2 + (seed or 0) % 5
        return super().reset(seed)


def test_steps_do_not_depend_on_the_number_of_workers() -> None:
    # A lambda, which only cloudpickle can send.
    runs = []
    for num_workers in (0, 1, 2):
        env = PettingZooVecEnv(lambda: ManyEnv(), 4, num_workers=num_workers, seed=5)  # noqa: PLW0108
        runs.append((play(env, 12), env.initial_masks(), env.state_dict()))
        env.close()
    expected, masks, counters = runs[0]
    assert {step.truncated.any(-1).sum().item() for step in expected} > {0, 1}
    for steps, found_masks, found_counters in runs[1:]:
        for step, found in zip(expected, steps, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(step[:9], found[:9], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(masks, found_masks, strict=True))
        assert all(torch.equal(counters[name], found_counters[name]) for name in counters)


def test_masks_deaths_and_resumes_work_in_workers() -> None:
    env = PettingZooVecEnv(MaskedEnv, 2, num_workers=1)
    env.reset()
    mask = env.initial_masks()[1]
    for t in range(6):
        assert mask.int().argmax(-1).tolist() == [[t % 5 % 4] * 2] * 2
        step = env.step(mask.int().argmax(-1, keepdim=True).float())
        mask = step.action_mask
    saved = env.state_dict()
    assert env.load_state_dict(saved) is False
    env.close()
    env = PettingZooVecEnv(lambda: MortalParallelEnv({"a": (0, 2), "b": (0, 4)}), 2, num_workers=1)
    assert [step.terminated[1].tolist() for step in play(env, 4)] == [
        [False] * 2,
        [True, False],
        [False] * 2,
        [False, True],
    ]
    assert env.load_state_dict(env.state_dict()) is True
    env.close()


def test_an_error_in_a_worker_shows_its_traceback_and_ends_all_workers(new_children: Children) -> None:
    env = PettingZooVecEnv(lambda: BrokenEnv(fail, at=3), 2, num_workers=2)
    with pytest.raises(RuntimeError, match="KeyError: 'the door is locked'") as error:
        play(env, 5)
    assert "in worker 0 (copies 0 to 0)" in str(error.value)
    assert 'raise KeyError("the door is locked")' in str(error.value)
    assert "This happened in copy 0, in its episode 0." in str(error.value)
    assert not new_children()
    env.close()


def test_a_bad_observation_in_a_worker_is_a_value_error_too() -> None:
    def spoil(env: BrokenEnv, results: Any) -> None:
        results[0]["two"][1] = np.nan

    env = PettingZooVecEnv(lambda: BrokenEnv(spoil), 2, num_workers=1)
    with pytest.raises(ValueError, match=r"observation of two: entry obs\[1\] = nan is not finite \(copy 0\)"):
        play(env, 5)


def test_a_factory_that_fails_in_a_worker_is_reported() -> None:
    parent = os.getpid()

    def make() -> ToyParallelEnv:
        if os.getpid() != parent:
            raise OSError("no licence here")
        return ToyParallelEnv()

    env = PettingZooVecEnv(make, 1, num_workers=1)
    with pytest.raises(RuntimeError, match="OSError: no licence here"):
        env.reset()


def test_a_worker_that_dies_is_reported_and_the_others_end() -> None:
    env = PettingZooVecEnv(lambda: BrokenEnv(vanish, at=2), 2, num_workers=2)
    with pytest.raises(RuntimeError, match=r"a worker process ended unexpectedly \(exit codes \[3, -?\d+\]"):
        play(env, 5)


def test_warnings_of_workers_are_given_here_each_text_once(capfd: pytest.CaptureFixture[str]) -> None:
    class Warns(ToyParallelEnv):
        def observe(self, agent: str) -> Any:
            warnings.warn("the oracle is tired", RuntimeWarning, stacklevel=1)
            return super().observe(agent) * 0 + 1.015 * (self.time > 2)

    with warnings.catch_warnings():  # looked at before, in this process
        warnings.simplefilter("ignore")
        env = PettingZooVecEnv(Warns, 4, num_workers=2)
    with pytest.warns(UserWarning, match="tired|so little") as caught:
        play(env, 8)
    env.close()
    tired, outside = (str(warning.message) for warning in caught)
    assert "RuntimeWarning in a worker: the oracle is tired (" in tired
    assert "entry obs[0] = 1.015 is outside its space, [-1, 1] (copy 0): so little is let pass" in outside
    assert capfd.readouterr().err == ""


def test_what_cannot_be_pickled_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(ValueError, match="--num-workers 1: the env's factory or encoder cannot be sent"):
        PettingZooVecEnv(lambda: (lock, ToyParallelEnv())[1], 1, num_workers=1)


def test_workers_ignore_an_interrupt_and_end_with_the_env(new_children: Children) -> None:
    env = PettingZooVecEnv(ToyParallelEnv, 1, num_workers=1)
    env.reset()
    (child,) = new_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    env.step(torch.ones(1, 2, 1))
    del env
    gc.collect()
    assert not child.is_alive()


def test_a_worker_has_one_thread() -> None:
    class Threads(ToyParallelEnv):
        def reward(self, agent: str, actions: Any) -> float:
            return float(torch.get_num_threads())

    env = PettingZooVecEnv(Threads, 1, num_workers=1)
    before = dict(os.environ)
    assert play(env, 1)[0].rewards.tolist() == [[1, 1]]
    assert dict(os.environ) == before
    env.close()


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, "-W", "error", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert (result.stdout, result.stderr) == ("[[2.0, 2.0], [2.0, 2.0]]\n[2.0, 2.0]\n", "")


SCRIPT = """
import sys
import torch
from mappo.adapters import PettingZooVecEnv, SplitVecEnv
from tests.toy_envs import TargetEnv
from tests.toy_parallel import ToyParallelEnv

class Mine(ToyParallelEnv):
    def reward(self, agent, actions):
        return 2.0

class Batched(TargetEnv):
    def step(self, actions):
        return super().step(actions)._replace(rewards=torch.full((self.num_envs, 1), 2.0))

env = PettingZooVecEnv(lambda: Mine(), 2, num_workers=2)
env.reset()
print(env.step(torch.ones(2, 2, 1)).rewards.tolist())
split = SplitVecEnv(lambda copies: Batched(len(copies), (1,)), 2, 2)
split.reset()
print(split.step(torch.zeros(2, 1, 1)).rewards.flatten().tolist())
assert "vmas" not in sys.modules and "mappo.adapters.vmas" not in sys.modules
"""
