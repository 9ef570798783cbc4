"""Small trainers for the tests of this folder."""

from pathlib import Path
from typing import Any, Protocol

import pytest

from mappo import TrainConfig, Trainer, VecEnv
from tests.toy_envs import TargetEnv


class MakeTrainer(Protocol):
    """The factory that `make_trainer` gives."""

    def __call__(self, env: VecEnv | None = None, eval_env: VecEnv | None = None, **settings: Any) -> Trainer: ...


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Trainers that write below tmp_path, small enough for a test; settings are fields of TrainConfig."""

    def make(env: VecEnv | None = None, eval_env: VecEnv | None = None, **settings: Any) -> Trainer:
        small = {"iterations": 2, "num_steps": 5, "hidden_dim": 16, "num_minibatches": 2, "tensorboard": False}
        config = TrainConfig(**{**small, "runs_dir": str(tmp_path / "runs"), **settings})
        return Trainer(env or TargetEnv(), config, eval_env)

    return make
