"""Training with worker processes is training without: the microgrid's copies in 0, 1 and 2 of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import envs
from mappo import TrainConfig, Trainer, VecEnv
from mappo.adapters import SplitVecEnv

ROOT = Path(__file__).parents[2]
COPIES, GROUP = 8, 2
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # products of another batch size may end in other bits


def make(copies: range) -> envs.MicrogridEnv:
    return envs.make(num_envs=len(copies), first_copy=copies.start, group_size=GROUP, seed=3)


def copies_in(workers: int) -> VecEnv:
    if workers:
        return SplitVecEnv(make, COPIES, workers)
    return envs.make(num_envs=COPIES, group_size=GROUP, seed=3)


def test_steps_do_not_depend_on_the_number_of_workers() -> None:
    runs = []
    actions = 2 * torch.rand(30, *make(range(COPIES)).action_shape, generator=torch.Generator().manual_seed(0)) - 1
    for workers in (0, 1, 2):
        env: Any = copies_in(workers)
        runs.append(([*env.reset()], [env.step(action) for action in actions], env.state_dict()))
        env.close()
    begun, steps, state = runs[0]
    assert [step.terminated.all().item() for step in steps].index(True) == 23
    for other in runs[1:]:
        torch.testing.assert_close(other[0], begun, **CLOSE)
        torch.testing.assert_close([step._asdict() for step in other[1]], [step._asdict() for step in steps], **CLOSE)
        torch.testing.assert_close(other[2], state, **CLOSE)


def test_a_run_goes_on_with_any_number_of_workers(tmp_path: Path) -> None:
    small: dict[str, Any] = {"num_steps": 20, "num_minibatches": 2, "hidden_dim": 16, "iterations": 2}
    trainers = []
    for before, after in ((0, 0), (2, 0), (0, 2)):
        config = TrainConfig(**small, stop_after=1, runs_dir=str(tmp_path / f"{before}_{after}"), tensorboard=False)
        first = Trainer(copies_in(before), config)
        first.train()
        trainers.append(Trainer.resume(first.run.checkpoints / "latest.pt", copies_in(after)))
        trainers[-1].train()
        for trainer in (first, trainers[-1]):
            trainer.close()
    one, *others = trainers
    for other in others:
        assert other.notes == one.notes
        assert other.env_spec == one.env_spec
        torch.testing.assert_close(other.policy.state_dict(), one.policy.state_dict(), **CLOSE)
        torch.testing.assert_close(other.critic.state_dict(), one.critic.state_dict(), **CLOSE)


def test_train_py_has_workers(tmp_path: Path) -> None:
    flags = ["--num-envs", "8", "--iterations", "1", "--num-steps", "4", "--minibatch-size", "8", "--hidden-dim", "8"]
    command = [sys.executable, ROOT / "scripts" / "train.py", *flags, "--no-tensorboard", "--num-workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert "8 copies in 2 worker processes x 4 steps" in result.stdout
    assert "2 copies play the same day" in result.stdout
