"""HAPPO: one agent after the other, on its own rows only, with the earlier agents' change as a factor."""

from typing import Any

import pytest
import torch

from mappo import TrainConfig, Trainer
from mappo.buffer import Batch
from mappo.config import StepSizes
from mappo.happo import HappoUpdater, of_agent
from tests.mappo.conftest import MakeTrainer, next_batch
from tests.toy_envs import MortalEnv, TargetEnv

SIZES = StepSizes(lr=1e-2, clip=0.2, ent_coef=0.0)


def log_probs(trainer: Trainer, batch: Batch) -> torch.Tensor:
    distribution, _ = trainer.policy.actor(batch.obs, batch.action_mask, batch.memory[0], batch.starts)
    return distribution.log_prob(batch.actions).detach()


def test_it_learns_the_toy_task(make_trainer: MakeTrainer) -> None:
    env, held_out = TargetEnv(64), TargetEnv(64, seed=1, same_episodes=True)
    settings: dict[str, Any] = {"iterations": 20, "num_steps": 16, "hidden_dim": 64, "num_minibatches": 8, "gamma": 0.9}
    history = make_trainer(env, held_out, algo="happo", eval_every=20, **settings).train()
    assert history[-1]["eval/return"] > -0.15


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_an_agents_turn_moves_its_own_rows_and_moments_alone(make_trainer: MakeTrainer, recurrent: str) -> None:
    trainer = make_trainer(algo="happo", recurrent=recurrent, chunk_length=5)
    updater = trainer.updater
    assert isinstance(updater, HappoUpdater)
    batch = next_batch(trainer)
    updater.update(batch, SIZES, trainer.generator)
    before = [parameter.detach().clone() for parameter in trainer.policy.actor.parameters()]
    moments = str(updater.agent_optimizers[0].state_dict())
    updater.agent_step(of_agent(batch, 1), SIZES, 1)
    assert str(updater.agent_optimizers[0].state_dict()) == moments
    for old, new in zip(before, trainer.policy.actor.parameters(), strict=True):
        assert torch.equal(old[[0, 2]], new[[0, 2]])
    assert any(
        not torch.equal(old[1], new[1]) for old, new in zip(before, trainer.policy.actor.parameters(), strict=True)
    )


def test_the_factor_is_the_product_of_the_earlier_agents_ratios(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(
        MortalEnv(), algo="happo", num_minibatches=1, num_epochs=1, reward_mode="individual", num_steps=8
    )
    updater = trainer.updater
    assert isinstance(updater, HappoUpdater)
    batch = next_batch(trainer)
    old = log_probs(trainer, batch)
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    step = updater.agent_step

    def remember(minibatch: Batch, sizes: StepSizes, agent: int, living: None) -> dict[str, torch.Tensor]:
        ratios = torch.where(batch.alive, (log_probs(trainer, batch) - old).exp(), 1.0)
        order = minibatch.log_prob[0, :, 0].argsort()
        seen.append((agent, minibatch.advantages[0, order, 0], ratios))
        return step(minibatch, sizes, agent, living)

    monkeypatch.setattr(updater, "agent_step", remember)
    updater.update(batch, SIZES, trainer.generator)
    assert sorted(agent for agent, _, _ in seen) == [0, 1, 2]
    done: list[int] = []
    for agent, advantages, ratios in seen:
        order = batch.log_prob[0, :, agent].argsort()
        want = batch.advantages[0, :, agent] * ratios[0, :, done].prod(-1)
        torch.testing.assert_close(advantages, want[order], atol=1e-5, rtol=1e-4)
        done.append(agent)
    assert (seen[2][2][0, :, done[:2]] - 1).abs().max() > 1e-3


def test_the_order_is_drawn_anew(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(algo="happo", num_minibatches=1, num_epochs=1)
    updater = trainer.updater
    assert isinstance(updater, HappoUpdater)
    order: list[int] = []
    step = updater.agent_step
    monkeypatch.setattr(
        updater, "agent_step", lambda part, sizes, agent, _: order.append(agent) or step(part, sizes, agent)
    )
    batch = next_batch(trainer)
    for _ in range(6):
        updater.update(batch, SIZES, trainer.generator)
    assert len({tuple(order[i : i + 3]) for i in range(0, 18, 3)}) > 1


def test_its_policies_are_independent() -> None:
    assert TrainConfig(algo="happo").sharing == "independent"
    with pytest.raises(ValueError, match=r"--algo happo trains one policy for each agent"):
        TrainConfig(algo="happo", policy_sharing="grouped")
