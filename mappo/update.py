"""The PPO update: epochs of minibatches for actor and critic, each with an optimiser of its own.

Data flow: Batch -> minibatches -> losses -> optimisers. Gradient clipping and Adam act on each policy by itself: every
parameter is a part of `StackedParameters`, a row for each policy, and losses are summed over policies.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mappo.buffer import Batch, minibatches, split
from mappo.config import StepSizes
from mappo.losses import clipped_policy_loss, entropy_bonus, policy_weights, value_loss
from mappo.networks import Critic
from mappo.policy import Policy
from mappo.stacked_parameters import StackedParameters

Metrics = dict[str, Tensor]
TARGET_KL_SLACK = 1.5


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """The numbers of the update; `TrainConfig` documents them."""

    num_minibatches: int
    num_epochs: int
    grad_accumulation: int
    value_clip: bool
    max_grad_norm: float
    huber_delta: float
    target_kl: float | None


class Updater:
    """Trains a policy and a critic in place."""

    def __init__(self, policy: Policy, critic: Critic, settings: UpdateSettings) -> None:
        """Step sizes are given with each update."""
        self.policy = policy
        self.critic = critic
        self.settings = settings
        self.actor_weights = StackedParameters(policy.actor.parameters())
        self.critic_weights = StackedParameters(critic.parameters())
        self.actor_optimizer = self.actor_weights.optimizer()
        self.critic_optimizer = self.critic_weights.optimizer()

    def update(self, batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        """All epochs over one batch; returns the means over minibatches, still on the device."""
        set_learning_rate(self.actor_optimizer, sizes.lr)
        set_learning_rate(self.critic_optimizer, sizes.lr)
        return self.epochs(
            batch, generator, lambda minibatch: self.actor_step(minibatch, sizes) | self.critic_step(minibatch, sizes)
        )

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """What a checkpoint must hold, by name."""
        return {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}

    def epochs(self, batch: Batch, generator: torch.Generator, step: Callable[[Batch], Metrics]) -> Metrics:
        """`step` on every minibatch of every epoch, until the policy has moved too far; means of its metrics."""
        metrics: list[Metrics] = []
        for _ in range(self.settings.num_epochs):
            epoch = [step(minibatch) for minibatch in minibatches(batch, self.settings.num_minibatches, generator)]
            metrics += epoch
            if self._moved_too_far(epoch):
                break
        return mean_metrics(metrics)

    def actor_step(self, minibatch: Batch, sizes: StepSizes) -> Metrics:
        """One gradient step of all policies; the metrics stay on the device."""
        self.actor_weights.grad.zero_()
        metrics = self.actor_gradient(minibatch, sizes)
        norms = self.actor_weights.clip_grad_norm(self.settings.max_grad_norm)
        self.actor_optimizer.step()
        return metrics | {"policy/grad_norm": norms.mean()}

    def actor_gradient(self, minibatch: Batch, sizes: StepSizes, agent: int | None = None) -> Metrics:
        """Add up the gradient of the policy's loss; with `agent` the minibatch holds that one only, A = 1."""
        actor = self.policy.actor
        ids, count = actor.body.policy_ids, actor.body.num_policies
        if agent is not None:
            ids, count = ids.new_zeros(1), 1
        weights = policy_weights(minibatch.alive, ids, count)
        total = weights.sum().clamp(min=1e-8)  # the number of policies with living agents
        sums: list[Tensor] = []
        parts = split(minibatch, self.settings.grad_accumulation)
        for part, share in zip(parts, weights.chunk(self.settings.grad_accumulation, dim=1), strict=True):
            distribution, _ = actor(part.obs, part.action_mask, part.memory[0], part.starts, agent)
            log_prob = distribution.log_prob(part.actions)
            surrogate = clipped_policy_loss(log_prob, part.log_prob, part.advantages, share, clip=sizes.clip)
            with torch.set_grad_enabled(sizes.ent_coef > 0):  # without a bonus it is only logged
                entropy = entropy_bonus(distribution.entropy(), share)
            self.actor_weights.backward(surrogate.loss - sizes.ent_coef * entropy)
            sums.append(torch.stack([value.detach() for value in (*surrogate, entropy)]))
        loss, approx_kl, clip_fraction, entropy = torch.stack(sums).sum(0) / total
        names = ("losses/policy", "policy/approx_kl", "policy/clip_fraction", "policy/entropy")
        return dict(zip(names, (loss, approx_kl, clip_fraction, entropy), strict=True))

    def critic_step(self, minibatch: Batch, sizes: StepSizes) -> Metrics:
        """One gradient step of all critics; the metrics stay on the device."""
        critic, settings = self.critic, self.settings
        weights = policy_weights(minibatch.value_alive, critic.value_ids, critic.body.num_policies)
        clip = sizes.clip if settings.value_clip else None
        self.critic_weights.grad.zero_()
        losses: list[Tensor] = []
        parts = split(minibatch, settings.grad_accumulation)
        for part, share in zip(parts, weights.chunk(settings.grad_accumulation, dim=1), strict=True):
            values, _ = critic(part.obs, part.state, part.critic_memory[0], part.starts)
            delta = settings.huber_delta
            loss = value_loss(values, part.values, part.returns, share, huber_delta=delta, clip=clip)
            self.critic_weights.backward(loss)
            losses.append(loss.detach())
        norms = self.critic_weights.clip_grad_norm(settings.max_grad_norm)
        self.critic_optimizer.step()
        total = weights.sum().clamp(min=1e-8)
        return {"losses/value": torch.stack(losses).sum() / total, "value/grad_norm": norms.mean()}

    def _moved_too_far(self, epoch: list[Metrics]) -> bool:
        if self.settings.target_kl is None or "policy/approx_kl" not in epoch[0]:
            return False
        approx_kl = torch.stack([metrics["policy/approx_kl"] for metrics in epoch]).mean()
        return bool(approx_kl > TARGET_KL_SLACK * self.settings.target_kl)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def mean_metrics(per_minibatch: list[Metrics]) -> Metrics:
    """Means over minibatches."""
    return {name: torch.stack([metrics[name] for metrics in per_minibatch]).mean() for name in per_minibatch[0]}


def to_floats(metrics: Metrics) -> dict[str, float]:
    """Bring scalars to the host in one transfer."""
    return dict(zip(metrics, torch.stack([value.float() for value in metrics.values()]).tolist(), strict=True))
