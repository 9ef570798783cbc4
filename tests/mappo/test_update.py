"""The update as a whole: independence of policies, padding, the dead, minibatches, accumulation, metrics."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mappo.buffer import Batch
from mappo.config import StepSizes
from mappo.losses import clipped_policy_loss, policy_weights, value_loss
from mappo.update import Metrics
from tests.mappo.conftest import MakeTrainer, iterate, next_batch
from tests.toy_envs import MortalEnv, TargetEnv
from tests.toy_tasks import RandomEnv

SIZES = StepSizes(lr=2e-3, clip=0.2, ent_coef=0.005)
CHUNKS = {"num_steps": 8, "chunk_length": 4, "gamma": 0.9, "num_minibatches": 2}
MENUS: list[spaces.Space[Any]] = [spaces.MultiDiscrete([2, 4]), spaces.Discrete(3), spaces.MultiDiscrete([2, 4])]


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def parameters_of(module: nn.Module, policy: int) -> list[Tensor]:
    return [parameter.detach()[policy].clone() for parameter in module.parameters()]


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
@pytest.mark.parametrize("network", [{}, {"recurrent": "lstm", "layer_norm": True}])
@pytest.mark.parametrize("make_env", [lambda: TargetEnv(4), lambda: RandomEnv(MENUS)])
def test_one_policys_data_never_moves_or_scales_another(
    make_trainer: MakeTrainer, algo: str, network: dict[str, Any], make_env: Callable[[], Any]
) -> None:
    moved = []
    settings = {**CHUNKS, **network, "policy_sharing": "independent", "reward_mode": "individual", "max_grad_norm": 0.5}
    for factor in (1.0, 1e6):
        trainer = make_trainer(make_env(), algo=algo, **settings)
        iterate(trainer)
        batch = next_batch(trainer)
        scale = torch.tensor([1.0, factor, 1.0])
        batch = batch._replace(advantages=batch.advantages * scale, returns=batch.returns * scale)
        for _ in range(3):
            trainer.updater.step(batch, SIZES)
        modules = (trainer.policy.actor, trainer.critic)
        moved.append([[parameters_of(module, policy) for module in modules] for policy in range(3)])
    for policy, same in ((0, True), (1, False), (2, True)):
        pairs = zip(moved[0][policy], moved[1][policy], strict=True)
        equal = all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))
        assert equal == same


def test_each_policy_gets_the_gradient_that_it_would_get_alone(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(MortalEnv(), policy_sharing="independent", reward_mode="individual")
    iterate(trainer)
    batch = next_batch(trainer)
    actor = trainer.policy.actor

    def gradient(weights: Tensor) -> Tensor:
        distribution, _ = actor(batch.obs, batch.action_mask, batch.memory[0], batch.starts)
        log_prob = distribution.log_prob(batch.actions)
        loss = clipped_policy_loss(log_prob, batch.log_prob, batch.advantages, weights, clip=0.2).loss
        return torch.autograd.grad(loss, actor.body.output.weight)[0]

    together = gradient(policy_weights(batch.alive, actor.body.policy_ids, 3))
    assert 0 < batch.alive[..., 0].sum() < batch.alive[..., 0].numel()
    for policy in range(3):
        only = torch.zeros(3).index_fill(0, torch.tensor([policy]), 1.0)
        mean = batch.alive * only / batch.alive[..., policy].sum()
        torch.testing.assert_close(gradient(mean)[policy], together[policy])


@pytest.mark.parametrize("network", [{}, {"recurrent": "gru", "layer_norm": True}])
@pytest.mark.parametrize("make_env", [MortalEnv, lambda: RandomEnv(MENUS)])
def test_dead_agents_change_no_gradient(
    make_trainer: MakeTrainer, network: dict[str, Any], make_env: Callable[[], Any]
) -> None:
    found = []
    for noise in (0.0, 100.0):
        trainer = make_trainer(make_env(), reward_mode="individual", **CHUNKS, **network)
        iterate(trainer)
        batch = next_batch(trainer)
        assert not batch.alive.all()
        dead = (~batch.alive).float() * noise
        other = {"advantages": batch.advantages + dead, "log_prob": batch.log_prob - dead}
        trainer.updater.step(batch._replace(**other, returns=batch.returns + dead), SIZES)
        found.append(gradients(trainer.policy.actor) + gradients(trainer.critic))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(torch.isfinite(gradient).all() for gradient in found[0])


@pytest.mark.parametrize("network", [{"layer_norm": True}, {"recurrent": "gru", "chunk_length": 4}])
def test_every_epoch_trains_on_every_row_once(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, network: dict[str, Any]
) -> None:
    trainer = make_trainer(num_epochs=3, num_steps=8, **network)
    iterate(trainer)
    batch = next_batch(trainer)
    tagged = batch._replace(log_prob=torch.arange(float(batch.log_prob.numel())).view_as(batch.log_prob))
    seen: list[Tensor] = []

    def remember(minibatch: Batch, sizes: StepSizes, _: None) -> Metrics:
        seen.append(minibatch.log_prob[..., 0])
        return {"policy/approx_kl": torch.zeros(())}

    monkeypatch.setattr(trainer.updater, "step", remember)
    trainer.updater.update(tagged, SIZES, trainer.generator)
    assert len(seen) == 6
    epochs = [torch.cat(seen[i : i + 2], dim=1) for i in (0, 2, 4)]
    for order in epochs:  # chunks move, what is in one stays in order
        assert torch.equal(order[:, order[0].argsort()], tagged.log_prob[..., 0])
    assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("parts", [3, 999])
@pytest.mark.parametrize("network", [{}, {"recurrent": "gru"}])
def test_gradients_do_not_depend_on_the_parts_that_they_are_computed_in(
    make_trainer: MakeTrainer, parts: int, network: dict[str, Any]
) -> None:
    """Parts of unequal size, with more or fewer living agents; one for each chunk where more are asked for."""
    found: list[list[Tensor]] = []
    told: list[Metrics] = []
    for count in (1, parts):
        trainer = make_trainer(
            RandomEnv(MENUS), policy_sharing="grouped", reward_mode="individual", **CHUNKS, **network
        )
        iterate(trainer)
        trainer.updater.settings = replace(trainer.updater.settings, grad_accumulation=count, value_clip=True)
        batch = next_batch(trainer)
        moved = batch.log_prob - 0.25 * batch.advantages  # so that some ratios are clipped
        batch = batch._replace(values=batch.values + 0.3, log_prob=moved)
        told.append(trainer.updater.step(batch, SIZES))
        found.append(gradients(trainer.policy.actor) + gradients(trainer.critic))
    assert told[0]["policy/clip_fraction"] > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(told[0], told[1], rtol=1e-5, atol=1e-6)


def test_a_setting_splits_the_minibatches_of_a_run(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(grad_accumulation=4, num_epochs=1)
    rows: list[int] = []
    forward = trainer.policy.actor.forward
    monkeypatch.setattr(
        trainer.policy.actor, "forward", lambda obs, *rest: rows.append(obs.shape[-3]) or forward(obs, *rest)
    )
    iterate(trainer)
    assert rows == [16] * 5 + [10] * 8  # 5 steps of 16 copies; 2 minibatches of 40 in 4 parts each


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("target_kl", "epochs"), [(1e-9, 1), (1e9, 4), (None, 4)])
def test_target_kl_stops_after_the_epoch_that_exceeds_it(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, target_kl: float | None, epochs: int, layer_norm: bool
) -> None:
    trainer = make_trainer(target_kl=target_kl, num_epochs=4, layer_norm=layer_norm)
    steps: list[Any] = []
    original = trainer.updater.apply_gradients
    monkeypatch.setattr(trainer.updater, "apply_gradients", lambda lr: steps.append(1) or original(lr))
    iterate(trainer, 2)
    assert len(steps) == 2 * 2 * epochs


def test_schedules_reach_the_update(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules: dict[str, Any] = {"lr_schedule": "constant", "clip_schedule": "linear", "ent_schedule": "linear"}
    trainer = make_trainer(TargetEnv(horizon=5), iterations=4, lr=1e-3, clip=0.2, ent_coef=0.01, **schedules)
    given: list[StepSizes] = []
    original = trainer.updater.update
    monkeypatch.setattr(
        trainer.updater, "update", lambda batch, sizes, rng: given.append(sizes) or original(batch, sizes, rng)
    )
    rates: list[float] = []
    step = trainer.updater.optimizer.step
    monkeypatch.setattr(trainer.updater.optimizer, "step", lambda lr: rates.append(lr) or step(lr))
    history = trainer.train()
    assert [sizes.lr for sizes in given] == [1e-3] * 4
    assert [round(sizes.clip, 9) for sizes in given] == [0.2, 0.15, 0.1, 0.05]
    assert [round(sizes.ent_coef, 9) for sizes in given] == [0.01, 0.0075, 0.005, 0.0025]
    assert [row["policy/clip"] for row in history] == [sizes.clip for sizes in given]
    assert set(rates) == {1e-3}


def test_the_step_sizes_are_those_of_the_losses(make_trainer: MakeTrainer) -> None:
    """A clip range of 0 leaves no gradient where the ratio moved with its advantage; entropy alone is left."""
    trainer = make_trainer()
    iterate(trainer)
    batch = next_batch(trainer)
    moved = batch._replace(log_prob=batch.log_prob - 0.5, advantages=batch.advantages.abs() + 0.1)
    norms = []
    for sizes in (replace(SIZES, clip=0.2, ent_coef=0.0), replace(SIZES, clip=0.8, ent_coef=0.0), SIZES):
        trainer.updater.actor_weights.grad.zero_()
        trainer.updater.actor_gradient(moved, sizes)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients(trainer.policy.actor)]).norm().item())
    assert norms[0] == 0
    assert norms[1] > 0.1
    assert norms[2] == pytest.approx(0.005)  # d entropy / d log_std is 1 for each of the one-column agents


def test_the_entropy_is_logged_with_and_without_a_bonus(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(num_steps=40)
    batch = next_batch(trainer)
    told = [trainer.updater.actor_gradient(batch, replace(SIZES, ent_coef=c))[3].item() for c in (1, 0)]
    assert told[0] == pytest.approx(-1 + 0.5 * math.log(2 * math.pi * math.e), abs=1e-5)
    assert told[1] == pytest.approx(told[0], abs=0.05)


@pytest.mark.parametrize("value_clip", [False, True])
def test_values_are_clipped_by_the_range_of_the_ratio_if_asked(make_trainer: MakeTrainer, value_clip: bool) -> None:
    trainer = make_trainer(value_clip=value_clip, max_grad_norm=1e9)
    iterate(trainer)
    batch = next_batch(trainer)
    batch = batch._replace(values=batch.values + 0.5)
    values, _ = trainer.critic(batch.obs, batch.state, batch.critic_memory[0], batch.starts)
    weights = torch.full_like(values, 1 / values.numel())
    clip = 0.2 if value_clip else None
    want = value_loss(values, batch.values, batch.returns, weights, huber_delta=10.0, clip=clip)
    expected = list(torch.autograd.grad(want, list(trainer.critic.parameters())))
    metrics = trainer.updater.step(batch, SIZES)
    torch.testing.assert_close(metrics["losses/value"], want.detach())
    torch.testing.assert_close(gradients(trainer.critic), expected)


@pytest.mark.parametrize(
    ("critic_input", "reward", "width", "values"),
    [("state", "individual", 4, 3), ("agent", "mean", 9, 3), ("auto", "mean", 4, 1), ("auto", "individual", 9, 3)],
)
def test_the_critic_input_can_be_forced(
    make_trainer: MakeTrainer, critic_input: str, reward: str, width: int, values: int
) -> None:
    """State of 4 columns; own observation of 2 and an id of 3."""
    trainer = make_trainer(critic_input=critic_input, reward_mode=reward)
    iterate(trainer)
    first = trainer.critic.body.hidden[0].weight
    assert isinstance(first, nn.Parameter)
    assert first.shape[-1] == width
    assert next_batch(trainer).values.shape == (1, 80, values)


def test_networks_that_were_moved_away_are_an_error(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.policy.double().float()
    with pytest.raises(RuntimeError, match="networks of a Trainer were moved, cast or replaced"):
        iterate(trainer)
