"""Optional ways to compute the update: bfloat16 products, and compiled losses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mappo import TrainConfig
from tests.mappo.conftest import MakeTrainer, next_batch
from tests.mappo.test_update import SIZES
from tests.toy_envs import TargetEnv


def gradient(make_trainer: MakeTrainer, **settings: Any) -> tuple[Tensor, Tensor]:
    trainer = make_trainer(TargetEnv(64), num_steps=16, hidden_dim=64, grad_accumulation=2, **settings)
    batch = next_batch(trainer)
    trainer.updater.actor_gradient(batch, SIZES)
    trainer.updater.critic_gradient(batch, SIZES)
    return trainer.updater.actor_weights.grad, trainer.updater.critic_weights.grad


@pytest.mark.parametrize("settings", [{}, {"policy_sharing": "independent", "algo": "ippo", "layer_norm": True}])
def test_gradients_in_bf16_point_where_they_do_in_float32(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    for exact, found in zip(
        gradient(make_trainer, **settings), gradient(make_trainer, precision="bf16", **settings), strict=True
    ):
        assert found.dtype == torch.float32
        assert not torch.equal(found, exact)
        assert torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.99


def test_it_learns_in_bf16_as_well(make_trainer: MakeTrainer) -> None:
    """The task and the threshold of the float32 test in test_trainer.py."""
    env, held_out = TargetEnv(64), TargetEnv(64, seed=1, same_episodes=True)
    settings: dict[str, Any] = {"iterations": 20, "num_steps": 16, "hidden_dim": 64, "num_minibatches": 8, "gamma": 0.9}
    history = make_trainer(env, held_out, precision="bf16", eval_every=20, **settings).train()
    assert history[0]["eval/return"] < -1.5
    assert history[-1]["eval/return"] > -0.15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_compiled_update_is_the_plain_one(make_trainer: MakeTrainer) -> None:
    told, weights = [], []
    options: list[dict[str, Any]] = [{}, {"compile": True}]
    for settings in options:
        trainer = make_trainer(TargetEnv(16), num_steps=8, iterations=3, value_clip=True, **settings)
        told.append(trainer.train())
        weights.append(torch.cat([trainer.updater.actor_weights.data, trainer.updater.critic_weights.data], 1))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
    assert all(row["time/compile_s"] > 0 for row in told[1] if row["iteration"])
    assert not any("time/compile_s" in row for row in told[0])


def test_what_cannot_be_compiled_is_told(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--compile is for --algo mappo and ippo, got happo"):
        TrainConfig(algo="happo", compile=True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="--compile on a CPU needs a C\\+\\+ compiler"):
        make_trainer(compile=True)


def test_a_memory_has_no_bf16() -> None:
    with pytest.raises(ValueError, match="--precision bf16 needs --recurrent none, got gru"):
        TrainConfig(precision="bf16", recurrent="gru")
