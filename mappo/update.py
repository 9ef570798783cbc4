"""The PPO update: epochs of minibatches for actor and critic, each with an optimiser of its own.

Data flow: Batch -> minibatches -> losses -> optimisers. Gradient clipping and Adam act on each policy by itself: every
parameter is stacked (P, ...), norms are taken over one policy's rows, and losses are summed over policies.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mappo.buffer import Batch, minibatches
from mappo.losses import clipped_policy_loss, entropy_bonus, policy_weights, value_loss
from mappo.networks import Critic
from mappo.policy import Policy

Metrics = dict[str, Tensor]
TARGET_KL_SLACK = 1.5


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """The numbers of the update; `TrainConfig` documents them."""

    num_minibatches: int
    num_epochs: int
    clip: float
    value_clip: bool
    max_grad_norm: float
    huber_delta: float
    target_kl: float | None


class Updater:
    """Trains a policy and a critic in place."""

    def __init__(self, policy: Policy, critic: Critic, settings: UpdateSettings) -> None:
        """Learning rates and the entropy weight are given with each update."""
        self.policy = policy
        self.critic = critic
        self.settings = settings
        self.actor_optimizer = make_optimizer(policy.actor)
        self.critic_optimizer = make_optimizer(critic)

    def update(self, batch: Batch, *, lr: float, ent_coef: float, generator: torch.Generator) -> Metrics:
        """All epochs over one batch; returns the means over minibatches, still on the device."""
        for optimizer in (self.actor_optimizer, self.critic_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = lr
        metrics: list[Metrics] = []
        for _ in range(self.settings.num_epochs):
            epoch = []
            for minibatch in minibatches(batch, self.settings.num_minibatches, generator):
                epoch.append(self.actor_step(minibatch, ent_coef) | self.critic_step(minibatch))
            metrics += epoch
            if self._moved_too_far(epoch):
                break
        return mean_metrics(metrics)

    def actor_step(self, minibatch: Batch, ent_coef: float) -> Metrics:
        """One gradient step of all policies; the metrics stay on the device."""
        actor, settings = self.policy.actor, self.settings
        num_policies = actor.body.num_policies
        distribution = self.policy.distribution(minibatch.obs, minibatch.action_mask)
        log_prob = distribution.log_prob(minibatch.actions)
        weights = policy_weights(minibatch.alive, actor.body.policy_ids, num_policies)
        surrogate = clipped_policy_loss(log_prob, minibatch.log_prob, minibatch.advantages, weights, clip=settings.clip)
        entropy = entropy_bonus(distribution.entropy(), weights)
        self.actor_optimizer.zero_grad()
        (surrogate.loss - ent_coef * entropy).backward()
        norms = clip_grad_norm_by_policy(actor.parameters(), settings.max_grad_norm)
        self.actor_optimizer.step()
        return {
            "losses/policy": surrogate.loss.detach() / num_policies,
            "policy/approx_kl": surrogate.approx_kl,
            "policy/clip_fraction": surrogate.clip_fraction,
            "policy/entropy": entropy.detach() / num_policies,
            "policy/grad_norm": norms.mean(),
        }

    def critic_step(self, minibatch: Batch) -> Metrics:
        """One gradient step of all critics; the metrics stay on the device."""
        critic, settings = self.critic, self.settings
        num_policies = critic.body.num_policies
        values = critic(minibatch.obs, minibatch.state)
        weights = policy_weights(minibatch.value_alive, critic.value_ids, num_policies)
        clip = settings.clip if settings.value_clip else None
        loss = value_loss(
            values, minibatch.values, minibatch.returns, weights, huber_delta=settings.huber_delta, clip=clip
        )
        self.critic_optimizer.zero_grad()
        loss.backward()
        norms = clip_grad_norm_by_policy(critic.parameters(), settings.max_grad_norm)
        self.critic_optimizer.step()
        return {"losses/value": loss.detach() / num_policies, "value/grad_norm": norms.mean()}

    def _moved_too_far(self, epoch: list[Metrics]) -> bool:
        if self.settings.target_kl is None:
            return False
        approx_kl = torch.stack([metrics["policy/approx_kl"] for metrics in epoch]).mean()
        return bool(approx_kl > TARGET_KL_SLACK * self.settings.target_kl)


def make_optimizer(module: nn.Module) -> torch.optim.Adam:
    """Adam over all parameters; its moments are elementwise, so each policy has its own."""
    # eps=1e-5, not torch's 1e-8: the PPO2 value (Huang et al. 2022, "37 details", no. 3).
    return torch.optim.Adam(module.parameters(), eps=1e-5, fused=True)


def clip_grad_norm_by_policy(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale each policy's gradient (row p of every parameter) to at most `max_norm`; returns the norms before (P,)."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads])
    norm = torch.linalg.vector_norm(norms, dim=0)  # (P,)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))
    return norm


def mean_metrics(per_minibatch: list[Metrics]) -> Metrics:
    """Means over minibatches."""
    return {name: torch.stack([metrics[name] for metrics in per_minibatch]).mean() for name in per_minibatch[0]}


def to_floats(metrics: Metrics) -> dict[str, float]:
    """Bring scalars to the host in one transfer."""
    return dict(zip(metrics, torch.stack([value.float() for value in metrics.values()]).tolist(), strict=True))
