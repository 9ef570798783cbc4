"""The update as a whole: ratio 1, independence of policies, padding, metrics."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mappo import Trainer
from mappo.buffer import Batch
from mappo.losses import clipped_policy_loss, policy_weights
from mappo.targets import Networks, make_batch
from mappo.trainer import target_settings
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import MortalEnv, TargetEnv


def next_batch(trainer: Trainer) -> Batch:
    trainer.rollout.collect(trainer.buffer, trainer.generator)
    nets = Networks(trainer.policy, trainer.critic, trainer.state_norm, trainer.value_norm)
    return make_batch(trainer.buffer, nets, target_settings(trainer.config, trainer.group_size))[0]


def parameters_of(module: nn.Module, policy: int) -> list[Tensor]:
    return [parameter.detach()[policy].clone() for parameter in module.parameters()]


KINDS = list(
    itertools.product(
        ("mappo", "ippo"),
        ("shared", "independent", "grouped"),
        ("gaussian", "tanh_gaussian"),
        ("mean", "individual"),
    )
)


@pytest.mark.parametrize(("algo", "sharing", "dist", "reward"), KINDS)
def test_the_ratio_is_1_before_the_first_step(
    make_trainer: MakeTrainer, algo: str, sharing: str, dist: str, reward: str
) -> None:
    kind: dict[str, Any] = {"algo": algo, "policy_sharing": sharing, "action_dist": dist, "reward_mode": reward}
    trainer = make_trainer(TargetEnv(8, (1, 2, 1)), **kind)
    trainer.train()  # so that normalisers and weights are not at their start
    batch = next_batch(trainer)
    log_prob = trainer.policy.distribution(batch.obs, batch.action_mask).log_prob(batch.actions)
    assert (log_prob - batch.log_prob).exp().sub(1).abs().max() < 1e-5
    values = trainer.critic(batch.obs, batch.state)
    assert values.shape == batch.values.shape
    assert values.shape[-1] == (1 if algo == "mappo" and reward == "mean" else 3)


def test_the_stored_value_is_the_critics_in_the_new_units(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(value_norm=False)
    trainer.train()
    batch = next_batch(trainer)
    torch.testing.assert_close(trainer.critic(batch.obs, batch.state), batch.values)


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
def test_one_policys_data_never_moves_or_scales_another(make_trainer: MakeTrainer, algo: str) -> None:
    moved = []
    for factor in (1.0, 1e6):
        trainer = make_trainer(algo=algo, policy_sharing="independent", reward_mode="individual", max_grad_norm=0.5)
        trainer.train()
        batch = next_batch(trainer)
        scale = torch.tensor([1.0, factor, 1.0])
        batch = batch._replace(advantages=batch.advantages * scale, returns=batch.returns * scale)
        for _ in range(3):
            trainer.updater.actor_step(batch, ent_coef=0.005)
            trainer.updater.critic_step(batch)
        modules = (trainer.policy.actor, trainer.critic)
        moved.append([[parameters_of(module, policy) for module in modules] for policy in range(3)])
    for policy, same in ((0, True), (1, False), (2, True)):
        pairs = zip(moved[0][policy], moved[1][policy], strict=True)
        equal = all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))
        assert equal == same


def test_each_policy_gets_the_gradient_that_it_would_get_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(MortalEnv(), policy_sharing="independent", reward_mode="individual")
    trainer.train()
    batch = next_batch(trainer)
    actor = trainer.policy.actor

    def gradient(weights: Tensor) -> Tensor:
        log_prob = trainer.policy.distribution(batch.obs, batch.action_mask).log_prob(batch.actions)
        loss = clipped_policy_loss(log_prob, batch.log_prob, batch.advantages, weights, clip=0.2).loss
        return torch.autograd.grad(loss, actor.body.output.weight)[0]

    together = gradient(policy_weights(batch.alive, actor.body.policy_ids, 3))
    assert 0 < batch.alive[:, 0].sum() < len(batch.alive)
    for policy in range(3):
        only = torch.zeros(3).index_fill(0, torch.tensor([policy]), 1.0)
        mean = batch.alive * only / batch.alive[:, policy].sum()
        torch.testing.assert_close(gradient(mean)[policy], together[policy])


def test_padding_changes_no_gradient(make_trainer: MakeTrainer) -> None:
    """Agent 0 has 1 of 2 action columns and 3 of 5 observation columns."""
    trainer = make_trainer(TargetEnv(8, (1, 2), obs_padding=(0, 2)), algo="ippo", policy_sharing="independent")
    trainer.train()
    batch = next_batch(trainer)
    trainer.updater.actor_step(batch, ent_coef=0.005)
    actor = trainer.policy.actor
    first, output = actor.body.hidden[0].weight, actor.body.output
    assert isinstance(first, nn.Parameter)
    assert first.grad is not None
    assert output.weight.grad is not None
    assert output.bias.grad is not None
    assert actor.log_std.grad is not None
    assert (first.grad[0, 3:] == 0).all()
    assert (output.weight.grad[0, :, 1] == 0).all()
    assert output.bias.grad[0, 1] == 0
    assert actor.log_std.grad[0, 1] == 0
    assert (first.grad[0, :3] != 0).any()
    garbage = torch.ones(1, 2, 5) * torch.tensor([1.0, 1, 1, 9, 9])
    plain = torch.ones(1, 2, 5) * torch.tensor([1.0, 1, 1, 0, 0])
    assert torch.equal(trainer.policy.observe(garbage)[:, 0], trainer.policy.observe(plain)[:, 0])


def test_dead_agents_change_no_gradient(make_trainer: MakeTrainer) -> None:
    gradients = []
    for noise in (0.0, 100.0):
        trainer = make_trainer(MortalEnv(), reward_mode="individual", num_steps=8)
        trainer.train()
        batch = next_batch(trainer)
        dead = (~batch.alive).float() * noise
        trainer.updater.actor_step(batch._replace(advantages=batch.advantages + dead), ent_coef=0.005)
        trainer.updater.critic_step(batch._replace(returns=batch.returns + dead))
        modules = (trainer.policy.actor, trainer.critic)
        gradients.append([p.grad.clone() for m in modules for p in m.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_every_epoch_trains_on_every_row_once(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(num_epochs=3)
    trainer.train()
    batch = next_batch(trainer)
    tagged = batch._replace(log_prob=torch.arange(float(batch.log_prob.numel())).view_as(batch.log_prob))
    seen: list[Tensor] = []
    zeros = {"policy/approx_kl": torch.zeros(())}

    def remember(minibatch: Batch, ent_coef: float) -> dict[str, Tensor]:
        seen.append(minibatch.log_prob[:, 0])
        return zeros

    monkeypatch.setattr(trainer.updater, "actor_step", remember)
    monkeypatch.setattr(trainer.updater, "critic_step", lambda _: {})
    trainer.updater.update(tagged, lr=1e-3, ent_coef=0.0, generator=trainer.generator)
    assert len(seen) == 6
    epochs = [torch.cat(seen[i : i + 2]) for i in (0, 2, 4)]
    for order in epochs:
        assert torch.equal(order.sort().values, tagged.log_prob[:, 0])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize(("target_kl", "epochs"), [(1e-9, 1), (1e9, 4), (None, 4)])
def test_target_kl_stops_after_the_epoch_that_exceeds_it(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, target_kl: float | None, epochs: int
) -> None:
    trainer = make_trainer(target_kl=target_kl, num_epochs=4)
    steps: list[Any] = []
    original = trainer.updater.critic_step
    monkeypatch.setattr(trainer.updater, "critic_step", lambda batch: steps.append(1) or original(batch))
    trainer.train()
    assert len(steps) == 2 * 2 * epochs


@pytest.mark.parametrize(
    ("critic_input", "reward", "width", "values"),
    [("state", "individual", 4, 3), ("agent", "mean", 9, 3), ("auto", "mean", 4, 1), ("auto", "individual", 9, 3)],
)
def test_the_critic_input_can_be_forced(
    make_trainer: MakeTrainer, critic_input: str, reward: str, width: int, values: int
) -> None:
    """State of 4 columns; own observation of 2 and an id of 3."""
    trainer = make_trainer(critic_input=critic_input, reward_mode=reward)
    trainer.train()
    first = trainer.critic.body.hidden[0].weight
    assert isinstance(first, nn.Parameter)
    assert first.shape[1] == width
    assert next_batch(trainer).values.shape == (80, values)
