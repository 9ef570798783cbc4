"""The update in closed form against the one by autograd."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import nn

from mappo import VecEnv
from mappo.buffer import Batch
from mappo.closed_form import ClosedFormUpdater, gaussian_surrogate
from mappo.config import StepSizes
from mappo.distributions import Gaussian
from mappo.losses import clipped_policy_loss
from mappo.update import Metrics, Updater
from tests.mappo.conftest import MakeTrainer, next_batch
from tests.toy_envs import MortalEnv, TargetEnv
from tests.toy_tasks import RandomEnv

SIZES = StepSizes(lr=2e-3, clip=0.2, ent_coef=0.05)
BOXES: list[spaces.Space[Any]] = [spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (3,))]


def test_the_surrogates_gradient_is_that_of_autograd() -> None:
    """Ratios on both sides of the clip range with advantages of both signs, and one beyond the clamp."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    mean, log_std = normal(500, 2, 2).requires_grad_(), (0.3 * normal(2)).requires_grad_()
    actions = (mean + normal(500, 2, 2)).detach() * valid
    distribution = Gaussian(mean, log_std.expand(2, 2), valid, valid > 0)
    log_prob = distribution.log_prob(actions)
    old = (log_prob + 0.3 * normal(500, 2)).detach()
    old[0] -= 50
    advantages, weights = normal(500, 2), torch.rand(500, 2, generator=generator, dtype=torch.float64)
    loss = clipped_policy_loss(log_prob, old, advantages, weights, clip=0.2)
    assert 0.2 < loss.clip_fraction / weights.sum() < 0.8
    want = torch.autograd.grad(loss.loss, (mean, log_std))
    with torch.no_grad():
        found = gaussian_surrogate(mean, log_std, valid, actions, old, weights * advantages, clip=0.2)
    torch.testing.assert_close(found.of_mean, want[0])
    torch.testing.assert_close(found.of_log_std, want[1])
    torch.testing.assert_close(found.log_ratio, (log_prob - old).clamp(-20, 20).detach())


def updated(
    make_trainer: MakeTrainer, env: VecEnv, kind: type[Updater], settings: dict[str, Any]
) -> tuple[list[torch.Tensor], Metrics]:
    """Parameters and metrics after three updates by an updater of this kind, in float64."""
    trainer = make_trainer(env, num_steps=8, **settings)
    batch = next_batch(trainer)
    batch = Batch(*(field.double() if field.is_floating_point() else field for field in batch))
    # so that some ratios are clipped, and values far off on both sides of the Huber loss
    batch = batch._replace(log_prob=batch.log_prob - 0.25 * batch.advantages, returns=20 * batch.returns)
    actor, critic = trainer.policy.actor.double(), trainer.critic.double()
    updater = kind(trainer.policy, critic, trainer.updater.settings)
    generator = torch.Generator().manual_seed(7)
    told = [updater.update(batch, SIZES, generator) for _ in range(3)]
    modules: tuple[nn.Module, ...] = (actor, critic)
    return [parameter.detach() for module in modules for parameter in module.parameters()], told[-1]


@pytest.mark.parametrize(
    ("make_env", "settings"),
    [
        (lambda: TargetEnv(4), {}),
        (lambda: TargetEnv(4), {"algo": "ippo", "activation": "tanh", "num_layers": 1}),
        (lambda: TargetEnv(4), {"critic_input": "agent", "max_grad_norm": 0.1, "target_kl": 1e-3}),
        (lambda: TargetEnv(4), {"reward_mode": "individual", "critic_input": "state", "huber_delta": 0.5}),
        (lambda: RandomEnv(BOXES), {"log_std_init": -5.0}),
        (MortalEnv, {"reward_mode": "individual", "num_layers": 3, "gamma": 0.9}),
    ],
)
def test_an_update_is_that_of_autograd(make_trainer: MakeTrainer, make_env: Any, settings: dict[str, Any]) -> None:
    want, want_told = updated(make_trainer, make_env(), Updater, settings)
    found, told = updated(make_trainer, make_env(), ClosedFormUpdater, settings)
    # the weights of the other one are float32
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)
    assert told.keys() == want_told.keys()
    assert told["policy/clip_fraction"] > 0
    for name, value in told.items():
        torch.testing.assert_close(value, want_told[name], rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({}, True),
        ({"algo": "ippo"}, True),
        ({"policy_sharing": "independent"}, False),
        ({"layer_norm": True}, False),
        ({"recurrent": "gru", "chunk_length": 5}, False),
        ({"action_dist": "beta"}, False),
        ({"action_dist": "tanh_gaussian"}, False),
        ({"value_clip": True}, False),
        ({"grad_accumulation": 2}, False),
    ],
)
def test_it_is_used_where_it_fits(make_trainer: MakeTrainer, settings: dict[str, Any], fits: bool) -> None:
    assert isinstance(make_trainer(**settings).updater, ClosedFormUpdater) == fits


def test_choices_have_no_closed_form(make_trainer: MakeTrainer) -> None:
    mixed: list[spaces.Space[Any]] = [spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3)))] * 2
    assert type(make_trainer(RandomEnv(mixed)).updater) is Updater
