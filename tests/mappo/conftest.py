"""Small trainers for the tests of this folder."""

from pathlib import Path
from typing import Any, Protocol

import pytest

from mappo import TrainConfig, Trainer, VecEnv
from mappo.buffer import Batch
from mappo.parts import target_settings
from mappo.targets import Networks, make_batch
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


def next_batch(trainer: Trainer) -> Batch:
    """Play one rollout, and make of it what the update would train on."""
    trainer.rollout.start()
    trainer.rollout.collect(trainer.buffer, trainer.generator)
    nets = Networks(trainer.policy, trainer.critic, trainer.state_norm, trainer.value_norm)
    targets = make_batch(trainer.buffer, nets, target_settings(trainer.config, trainer.group_size))
    trainer.rollout.memory = trainer.rollout.memory._replace(critic=targets.critic_memory)
    return targets.batch


def iterate(trainer: Trainer, times: int = 1) -> None:
    """Train without a run folder, so that neither weights nor normalisers are at their start."""
    for _ in range(times):
        trainer.rollout.start()
        trainer.rollout.collect(trainer.buffer, trainer.generator)
        trainer.learn()
        trainer.iteration += 1
