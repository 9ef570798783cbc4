"""The PPO update: epochs of minibatches for actor and critic.

Data flow: Batch -> minibatches -> losses -> optimisers. Gradient clipping and Adam act on each policy by itself: every
parameter is a part of `StackedParameters`, a row for each policy, and losses are summed over policies.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mappo.adam import Adam
from mappo.buffer import Batch, minibatch_rows, minibatches, split
from mappo.config import StepSizes
from mappo.distributed import Ranks
from mappo.losses import clipped_policy_loss, entropy_bonus, policy_weights, value_loss
from mappo.networks import Actor, Critic
from mappo.policy import Policy
from mappo.stacked_parameters import StackedParameters

Metrics = dict[str, Tensor]
TARGET_KL_SLACK = 1.5


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """The numbers of the update; `TrainConfig` documents them."""

    num_envs: int
    num_minibatches: int
    num_epochs: int
    grad_accumulation: int
    value_clip: bool
    max_grad_norm: float
    huber_delta: float
    target_kl: float | None
    compile: bool
    bf16: bool


class Living(NamedTuple):
    """How many entries of a minibatch count, where this rank holds only a share of them."""

    agents: Tensor  # (A,)
    values: Tensor  # (V,)


class Updater:
    """Trains a policy and a critic in place; before each step the ranks add up their gradients."""

    def __init__(self, policy: Policy, critic: Critic, settings: UpdateSettings, ranks: Ranks | None = None) -> None:
        """Step sizes are given with each update."""
        self.policy = policy
        self.critic = critic
        self.settings = settings
        self.ranks = ranks or Ranks()
        self.actor_weights = StackedParameters(policy.actor.parameters())
        self.critic_weights = StackedParameters(critic.parameters())
        self.optimizer = Adam(self.actor_weights.rows(), self.critic_weights.rows())
        self.policy_loss: Callable[..., tuple[Tensor, Tensor]] = policy_loss
        self.critic_loss: Callable[..., Tensor] = critic_loss
        self.compile_s: float | None = None
        if settings.compile:
            # CUDA graphs, where there are any
            mode = "reduce-overhead" if self.actor_weights.data.is_cuda else "default"
            self.policy_loss = torch.compile(policy_loss, mode=mode)
            self.critic_loss = torch.compile(critic_loss, mode=mode)
        # numbers that change from update to update would be compiled anew
        self._numbers: Any = torch.tensor if settings.compile else float

    def update(self, batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        """All epochs over one batch; returns the means over minibatches, still on the device."""
        return self.epochs(batch, generator, lambda minibatch, living: self.step(minibatch, sizes, living))

    def optimizers(self) -> dict[str, Adam]:
        """What a checkpoint must hold, by name."""
        return {"optimizer": self.optimizer}

    def epochs(
        self, batch: Batch, generator: torch.Generator, step: Callable[[Batch, Living | None], Metrics]
    ) -> Metrics:
        """`step` on every minibatch of every epoch, until the policy has moved too far; means of its metrics."""
        count, num_envs = self.settings.num_minibatches, self.settings.num_envs

        def epoch() -> list[Metrics]:
            rows, parts = minibatch_rows(batch, count, generator, self.ranks.share, num_envs)
            living = self._living(batch, rows, parts)
            if self.settings.compile and self.compile_s is None:
                self._compile(next(minibatches(batch, rows, parts)))
            return [step(part, those) for part, those in zip(minibatches(batch, rows, parts), living, strict=True)]

        return self.repeat(epoch)

    def repeat(self, epoch: Callable[[], list[Metrics]]) -> Metrics:
        """Epochs, each of which tells metrics of equal weight, until the policy has moved too far; their means."""
        metrics: list[Metrics] = []
        for _ in range(self.settings.num_epochs):
            told = epoch()
            metrics += told
            if self._moved_too_far(told):
                break
        return mean_metrics(metrics)

    def _compile(self, minibatch: Batch) -> None:
        """Compute gradients once, for nothing but their code."""
        started = time.perf_counter()
        sizes = StepSizes(lr=0.0, clip=0.2, ent_coef=1.0)
        self.actor_gradient(minibatch, sizes)
        self.critic_gradient(minibatch, sizes)
        self.compile_s = time.perf_counter() - started

    def step(self, minibatch: Batch, sizes: StepSizes, living: Living | None = None) -> Metrics:
        """One gradient step of all policies and all critics; the metrics stay on the device."""
        self.actor_weights.grad.zero_()
        self.critic_weights.grad.zero_()
        sums = self.actor_gradient(minibatch, sizes, living=living)
        value_sums = self.critic_gradient(minibatch, sizes, living)
        self.ranks.sum_all_([self.actor_weights.grad, self.critic_weights.grad, sums, value_sums])
        norms, value_norms = self.apply_gradients(sizes.lr)
        norm_metrics = {"policy/grad_norm": norms.mean(), "value/grad_norm": value_norms.mean()}
        return policy_metrics(sums) | value_metrics(value_sums) | norm_metrics

    def check_parameters(self) -> None:
        """As `StackedParameters.check`."""
        self.actor_weights.check()
        self.critic_weights.check()

    def apply_gradients(self, lr: float) -> tuple[Tensor, Tensor]:
        """Clip the gradients and step; returns the norms before of each policy and of each critic."""
        norms = self.actor_weights.clip_grad_norm(self.settings.max_grad_norm)
        value_norms = self.critic_weights.clip_grad_norm(self.settings.max_grad_norm)
        self.optimizer.step(lr)
        return norms, value_norms

    def actor_gradient(
        self, minibatch: Batch, sizes: StepSizes, agent: int | None = None, living: Living | None = None
    ) -> Tensor:
        """Add up the gradient of the policy's loss; with `agent` the minibatch holds that one only, A = 1.

        Returns loss, approx_kl, clip fraction and entropy (5,), each summed over policies, and last their number.
        """
        actor = self.policy.actor
        ids, count = actor.body.policy_ids, actor.body.num_policies
        if agent is not None:
            ids, count = ids.new_zeros(1), 1
        weights = policy_weights(minibatch.alive, ids, count, living and living.agents)
        numbers = self._numbers
        given = {"clip": numbers(sizes.clip), "ent_coef": numbers(sizes.ent_coef), "bonus": sizes.ent_coef > 0}
        sums: list[Tensor] = []
        parts = split(minibatch, self.settings.grad_accumulation)
        for part, share in zip(parts, weights.chunk(self.settings.grad_accumulation, dim=1), strict=True):
            loss, terms = self.policy_loss(actor, part, share, agent, bf16=self.settings.bf16, **given)
            self.actor_weights.backward(loss)
            sums.append(terms.clone())
        return torch.cat([torch.stack(sums).sum(0), weights.sum().view(1)])

    def critic_gradient(self, minibatch: Batch, sizes: StepSizes, living: Living | None = None) -> Tensor:
        """Add up the gradient of the critic's loss; returns the loss, summed over critics, and their number (2,)."""
        critic, settings = self.critic, self.settings
        ids, count = critic.value_ids, critic.body.num_policies
        weights = policy_weights(minibatch.value_alive, ids, count, living and living.values)
        clip = self._numbers(sizes.clip) if settings.value_clip else None
        losses: list[Tensor] = []
        parts = split(minibatch, settings.grad_accumulation)
        for part, share in zip(parts, weights.chunk(settings.grad_accumulation, dim=1), strict=True):
            loss = self.critic_loss(critic, part, share, settings.huber_delta, clip, settings.bf16)
            self.critic_weights.backward(loss)
            losses.append(loss.detach().clone())
        return torch.stack([torch.stack(losses).sum(), weights.sum()])

    def _living(self, batch: Batch, rows: Tensor, parts: Sequence[int]) -> Sequence[Living | None]:
        """Of every minibatch, of all ranks: one exchange an epoch. One rank counts its own."""
        if self.ranks.count == 1:
            return [None] * len(parts)
        alive = torch.cat([batch.alive, batch.value_alive], -1).index_select(1, rows)  # (L, N, A + V)
        counts = torch.stack([part.flatten(0, 1).sum(0) for part in alive.split(list(parts), dim=1)])
        agents = batch.alive.shape[-1]
        return [Living(row[:agents], row[agents:]) for row in self.ranks.sum_(counts)]

    def _moved_too_far(self, epoch: list[Metrics]) -> bool:
        if self.settings.target_kl is None or "policy/approx_kl" not in epoch[0]:
            return False
        approx_kl = torch.stack([metrics["policy/approx_kl"] for metrics in epoch]).mean()
        return bool(approx_kl > TARGET_KL_SLACK * self.settings.target_kl)


def policy_loss(
    actor: Actor,
    part: Batch,
    weights: Tensor,
    agent: int | None,
    *,
    clip: float,
    ent_coef: float,
    bonus: bool,
    bf16: bool,
) -> tuple[Tensor, Tensor]:
    """The loss of all policies, or of `agent`'s; and surrogate, approx_kl, clip fraction and entropy, (4,).

    Without `bonus`, where ent_coef is 0, the entropy is only logged.
    """
    with torch.autocast(part.obs.device.type, torch.bfloat16, enabled=bf16):
        distribution, _ = actor(part.obs, part.action_mask, part.memory[0], part.starts, agent)
    log_prob = distribution.log_prob(part.actions)
    surrogate = clipped_policy_loss(log_prob, part.log_prob, part.advantages, weights, clip=clip)
    with torch.set_grad_enabled(bonus):
        entropy = entropy_bonus(distribution.entropy(), weights)
    terms = torch.stack([value.detach() for value in (*surrogate, entropy)])
    return surrogate.loss - ent_coef * entropy, terms


def critic_loss(
    critic: Critic, part: Batch, weights: Tensor, huber_delta: float, clip: float | None, bf16: bool
) -> Tensor:
    """The loss of all critics."""
    with torch.autocast(part.obs.device.type, torch.bfloat16, enabled=bf16):
        values, _ = critic(part.obs, part.state, part.critic_memory[0], part.starts)
    return value_loss(values, part.values, part.returns, weights, huber_delta=huber_delta, clip=clip)


def policy_metrics(sums: Tensor) -> Metrics:
    """Means over policies, of what `Updater.actor_gradient` returns."""
    loss, approx_kl, clip_fraction, entropy = sums[:-1] / sums[-1].clamp(min=1e-8)
    names = ("losses/policy", "policy/approx_kl", "policy/clip_fraction", "policy/entropy")
    return dict(zip(names, (loss, approx_kl, clip_fraction, entropy), strict=True))


def value_metrics(sums: Tensor) -> Metrics:
    """Mean over critics, of what `Updater.critic_gradient` returns."""
    return {"losses/value": sums[0] / sums[1].clamp(min=1e-8)}


def mean_metrics(per_minibatch: list[Metrics]) -> Metrics:
    """Means over minibatches."""
    return {name: torch.stack([metrics[name] for metrics in per_minibatch]).mean() for name in per_minibatch[0]}


def to_floats(metrics: Metrics) -> dict[str, float]:
    """Bring scalars to the host in one transfer."""
    return dict(zip(metrics, torch.stack([value.float() for value in metrics.values()]).tolist(), strict=True))
