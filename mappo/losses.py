"""PPO's losses as pure functions of tensors and numbers.

Data flow: minibatch -> losses -> update. `weights` (..., A) or (..., V) says how much each entry counts:
`policy_weights` makes them a mean over the living entries of each policy, summed over policies, so that every policy
gets the gradient that it would get alone. Dims: ... any leading dims, A agents, V value columns, P policies.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mappo.distributed import Add, alone

MAX_LOG_RATIO = 20.0


class PolicyLoss(NamedTuple):
    """Scalars; only `loss` carries a gradient."""

    loss: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def policy_weights(alive: Tensor, ids: Tensor, num_policies: int, living: Tensor | None = None) -> Tensor:
    """(..., A) bool and the policy id of each column (A,) -> (..., A): alive / (living entries of that policy).

    `living` (A,) counts those of each column where `alive` is only one rank's share of them.
    """
    living = (alive.flatten(0, -2).sum(0) if living is None else living).float()
    count = living.new_zeros(num_policies).index_add(0, ids, living)
    return alive / count.clamp(min=1)[ids]


def clipped_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, weights: Tensor, *, clip: float
) -> PolicyLoss:
    """PPO-clip objective, negated (Schulman et al., arXiv:1707.06347, eq. 7); all inputs (..., A).

    L = -sum(w min(ratio adv, clip(ratio, 1 - eps, 1 + eps) adv)), ratio = exp(clamp(logp - logp_old, -20, 20)).
    approx_kl = sum(w ((ratio - 1) - log ratio)), the low-variance estimator k3 of Schulman's note on KL; it and the
    share of clipped ratios are means for weights that sum to 1.
    """
    log_ratio = (log_prob - old_log_prob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    loss = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    with torch.no_grad():
        approx_kl = (weights * (ratio - 1 - log_ratio)).sum()
        clip_fraction = (weights * (ratio != clipped)).sum()
    return PolicyLoss(loss, approx_kl, clip_fraction)


def entropy_bonus(entropy: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the entropies (..., A); subtract it, times a coefficient, from the loss."""
    return (weights * entropy).sum()


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, weights: Tensor, *, huber_delta: float, clip: float | None
) -> Tensor:
    """sum(w max(huber(e), huber(e_clip))), all (..., V) in normalised units, returns included.

    e = R - V, e_clip = R - [V_old + clamp(V - V_old, -clip, clip)]; huber(e) = e^2 / 2 up to delta, linear beyond.
    """
    loss = functional.huber_loss(values, returns, delta=huber_delta, reduction="none")
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, functional.huber_loss(near, returns, delta=huber_delta, reduction="none"))
    return (weights * loss).sum()


def explained_variance(values: Tensor, returns: Tensor, alive: Tensor, add: Add = alone) -> Tensor:
    """1 - Var(R - V) / Var(R) over living entries, all (..., V); 0 where the returns do not vary.

    `add` sums over the ranks that hold the other copies.
    """
    weight = alive.to(returns.dtype)
    total = add(weight.sum()).clamp(min=1)

    def variance(x: Tensor) -> Tensor:
        mean = add((weight * x).sum()) / total
        return add((weight * (x - mean).square()).sum()) / total

    spread = variance(returns)
    return torch.where(spread > 0, 1 - variance(returns - values) / spread.clamp(min=1e-12), 0.0)
