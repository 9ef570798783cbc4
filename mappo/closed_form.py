"""The update without autograd, for what most people train: one shared Gaussian policy, no memory, no layer norm.

Data flow: Batch -> Epoch (shuffled, weighted) -> gradients of each minibatch in closed form -> one step of both
networks; an epoch's metrics come from what its steps recorded. Results are those of update.py to rounding. On a CPU a
small call costs as much as its arithmetic, and these are a third of the calls.
Dims: N env steps of an epoch, M minibatches of n each, A agents, I network input, U action, V value columns, R rows of
the critic.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mappo.buffer import Batch, minibatch_rows
from mappo.config import StepSizes
from mappo.distributed import Ranks
from mappo.distributions import HALF_LOG_TAU, LOG_STD_MAX, LOG_STD_MIN, BoxHead, gaussian_entropy
from mappo.layers import StackedLinear, StackedNet
from mappo.losses import MAX_LOG_RATIO, clipped_policy_loss, value_loss
from mappo.mlp import Affine, backward, forward
from mappo.networks import Critic, critic_obs
from mappo.policy import Policy
from mappo.update import Metrics, Updater, UpdateSettings


class Epoch(NamedTuple):
    """Env steps in the order of their minibatches, or one minibatch. Of the weights, each minibatch's sum to 1."""

    rows: Tensor  # (N,) of the batch
    actions: Tensor  # (N, A, U)
    log_prob: Tensor  # (N, A) of the policy that acted
    advantages: Tensor  # (N, A)
    returns: Tensor  # (N, V) normalised
    weights: Tensor  # (N, A)
    value_weights: Tensor  # (N, V)

    def minibatches(self, sizes: list[int]) -> Iterator["Epoch"]:
        """Views of the minibatches, which have `sizes` env steps."""
        return (Epoch(*parts) for parts in zip(*(field.split(sizes) for field in self), strict=True))


class Surrogate(NamedTuple):
    """Gradients of the clipped surrogate for one minibatch, and the log of the ratios."""

    of_mean: Tensor  # (n, A, U)
    of_log_std: Tensor  # (U,)
    log_ratio: Tensor  # (n, A)


def gaussian_surrogate(
    mean: Tensor, log_std: Tensor, valid: Tensor, actions: Tensor, log_prob: Tensor, gains: Tensor, *, clip: float
) -> Surrogate:
    """The gradient of `losses.clipped_policy_loss` with respect to the parameters of a `Gaussian`.

    With z = (a - mean) / std: d log p / d mean = z / std, d log p / d log std = z^2 - 1, and d loss / d log p = -w adv
    ratio where min(ratio adv, clip(ratio) adv) takes the ratio itself, else 0.

    Args:
        mean: (n, A, U).
        log_std: (U,) within its bounds.
        valid: (A, U) 1 on real columns, 0 on padding.
        actions: (n, A, U) raw samples.
        log_prob: (n, A) of the policy that acted.
        gains: (n, A) w adv, weights times advantages.
        clip: range of the ratio around 1.
    """
    precision = valid * torch.exp(-log_std)  # (A, U)
    constant = ((log_std + HALF_LOG_TAU) * valid).sum(-1)  # (A,)
    scaled = (actions - mean).mul_(precision)
    squares = scaled.square()
    raw = torch.add(log_prob + constant, squares.sum(-1), alpha=0.5).neg_()
    log_ratio = raw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    plain, clipped = ratio * gains, ratio.clamp(1 - clip, 1 + clip).mul_(gains)
    slope = ((plain <= clipped) * plain).mul_(raw == log_ratio).unsqueeze(-1)  # -d loss / d log p
    of_log_std = (slope * (valid - squares)).sum((0, 1))
    return Surrogate(scaled.mul_(precision).mul_(-slope), of_log_std, log_ratio)


class ClosedFormUpdater(Updater):
    """As `Updater`, for what `fits`."""

    def __init__(self, policy: Policy, critic: Critic, settings: UpdateSettings, ranks: Ranks | None = None) -> None:
        """As `Updater`."""
        super().__init__(policy, critic, settings, ranks)
        self._actor = _Network(policy.actor.body)
        self._critic = _Network(critic.body)
        log_std = policy.actor.log_std
        assert log_std.grad is not None
        self._log_std, self._log_std_grad = log_std.data[0], log_std.grad[0]

    @staticmethod
    def fits(policy: Policy, critic: Critic, settings: UpdateSettings) -> bool:
        """Whether the closed form covers these networks and losses."""
        heads = policy.actor.heads
        gaussian = len(heads) == 1 and isinstance(heads[0], BoxHead) and heads[0].kind == "gaussian"
        plain = all(net.body.is_plain_mlp and net.embedding is None for net in (policy.actor, critic))
        other = settings.value_clip or settings.grad_accumulation > 1 or settings.compile or settings.bf16
        return gaussian and plain and not other

    @torch.no_grad()
    def update(self, batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        """As `Updater.update`."""
        return self.repeat(lambda: [self._run(batch, sizes, generator)])

    def _run(self, batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        """One epoch; returns means over its minibatches."""
        settings = self.settings
        rows, parts = minibatch_rows(batch, settings.num_minibatches, generator, self.ranks.share, settings.num_envs)
        epoch = self._shuffled(batch, rows, parts)
        shares = torch.stack([weights.sum(0) for weights in epoch.weights.split(parts)])  # (M, A) of the agents
        recorded = []
        for minibatch, share in zip(epoch.minibatches(parts), shares, strict=True):
            log_std = self._log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
            obs = batch.obs[0].index_select(0, minibatch.rows)
            log_ratio = self._actor_gradient(obs, minibatch, log_std, share, sizes)
            values = self._critic_gradient(self._seen(batch, obs, minibatch.rows), minibatch)
            self.ranks.sum_all_([self.actor_weights.grad, self.critic_weights.grad])
            recorded.append((log_std, log_ratio, values, *self.apply_gradients(sizes.lr)))
        log_std, log_ratio, values, norms, value_norms = zip(*recorded, strict=True)
        entropy = gaussian_entropy(torch.stack(log_std)[:, None], self.policy.actor.valid)  # (M, A)
        sums = _sums(epoch, torch.cat(log_ratio), torch.cat(values), sizes.clip, settings.huber_delta)
        means = self.ranks.sum_(torch.stack([*sums, (shares * entropy).sum()])) / len(parts)
        names = ("losses/policy", "policy/approx_kl", "policy/clip_fraction", "losses/value", "policy/entropy")
        norm_metrics = {"policy/grad_norm": torch.cat(norms).mean(), "value/grad_norm": torch.cat(value_norms).mean()}
        return dict(zip(names, means, strict=True)) | norm_metrics

    def _shuffled(self, batch: Batch, rows: Tensor, parts: list[int]) -> Epoch:
        """The env steps `rows` of a batch without a memory, L = 1, which are minibatches of the sizes `parts`."""

        def taken(field: Tensor) -> Tensor:
            return field[0].index_select(0, rows)

        alive, value_alive = taken(batch.alive), taken(batch.value_alive)
        sizes = torch.tensor(parts, device=rows.device)
        part = torch.arange(len(parts), device=rows.device).repeat_interleave(sizes, output_size=len(rows))
        living = torch.stack([alive.sum(-1), value_alive.sum(-1)], -1)
        count = self.ranks.sum_(living.new_zeros(len(parts), 2).index_add_(0, part, living)).clamp_(min=1)
        count = count.to(batch.advantages.dtype)[part]
        return Epoch(
            rows=rows,
            actions=taken(batch.actions),
            log_prob=taken(batch.log_prob),
            advantages=taken(batch.advantages),
            returns=taken(batch.returns),
            weights=alive / count[:, :1],
            value_weights=value_alive / count[:, 1:],
        )

    def _seen(self, batch: Batch, obs: Tensor, rows: Tensor) -> Tensor:
        """What the critic sees at these rows, (n, R, C)."""
        view = self.critic.view
        return obs if view == "own" else critic_obs(obs, batch.state[0].index_select(0, rows), view)

    def _actor_gradient(self, obs: Tensor, part: Epoch, log_std: Tensor, share: Tensor, sizes: StepSizes) -> Tensor:
        """Set the gradient of the policy's loss; returns the log of the ratios (n, A)."""
        actor, body = self.policy.actor, self._actor
        *inputs, outputs = forward(obs.flatten(0, 1), body.activation, body.layers)
        mean, gains = outputs.view_as(part.actions), part.weights * part.advantages
        of_mean, of_log_std, log_ratio = gaussian_surrogate(
            mean, log_std, actor.valid, part.actions, part.log_prob, gains, clip=sizes.clip
        )
        backward(of_mean.flatten(0, 1), body.activation, body.layers, inputs, body.grads)
        bonus = share @ actor.valid.to(share.dtype)  # d entropy / d log std
        of_log_std = of_log_std.sub_(bonus, alpha=sizes.ent_coef)
        torch.mul(of_log_std, log_std == self._log_std, out=self._log_std_grad)  # beyond its bounds it stays
        return log_ratio

    def _critic_gradient(self, seen: Tensor, part: Epoch) -> Tensor:
        """Set the gradient of the Huber loss; returns the values (n, V)."""
        body, delta = self._critic, self.settings.huber_delta
        *inputs, outputs = forward(seen.flatten(0, 1), body.activation, body.layers)
        values = outputs.view_as(part.returns)
        grad = (values - part.returns).clamp_(-delta, delta).mul_(part.value_weights)
        backward(grad.view_as(outputs), body.activation, body.layers, inputs, body.grads)
        return values


def _sums(epoch: Epoch, log_ratio: Tensor, values: Tensor, clip: float, huber_delta: float) -> tuple[Tensor, ...]:
    """Policy loss, KL, clip fraction and value loss, summed over minibatches."""
    old = torch.zeros_like(log_ratio)
    policy = clipped_policy_loss(log_ratio, old, epoch.advantages, epoch.weights, clip=clip)
    value = value_loss(values, values, epoch.returns, epoch.value_weights, huber_delta=huber_delta, clip=None)
    return *policy, value


class _Network:
    """The layers of a body with one policy, and where their gradients go."""

    def __init__(self, body: StackedNet) -> None:
        """The parameters must be in `StackedParameters` already."""
        self.activation = body.activation
        self.layers, self.grads = list[Affine](), list[Affine]()
        for layer in (*body.hidden, body.output):
            assert isinstance(layer, StackedLinear)
            assert layer.weight.grad is not None
            assert layer.bias.grad is not None
            self.layers.append(Affine(layer.weight.data[0], layer.bias.data[0]))
            self.grads.append(Affine(layer.weight.grad[0], layer.bias.grad[0]))
