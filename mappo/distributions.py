"""Action distributions: network outputs -> samples, one joint log-probability and entropy per agent.

Data flow: Actor -> ProductDistribution -> rollout (sample) and update (log_prob, entropy). Every formula here is summed
over an agent's real action columns; padded ones count as 0. What is stored is the *raw* sample, before clipping or
tanh; `to_env` maps it to the [-1, 1] that an env takes.
Dims: (..., A, U) with any leading dims.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
QUADRATURE_NODES = 16


class Distribution(Protocol):
    """One head's distribution; `ProductDistribution` joins several."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Raw actions (..., A, columns)."""
        ...

    def mode(self) -> Tensor:
        """Raw actions of the deterministic policy (..., A, columns)."""
        ...

    def log_prob(self, actions: Tensor) -> Tensor:
        """Joint log-probability of raw actions, (..., A)."""
        ...

    def entropy(self) -> Tensor:
        """Entropy of what the env receives, (..., A)."""
        ...

    def to_env(self, actions: Tensor) -> Tensor:
        """Raw actions -> what `VecEnv.step` takes."""
        ...


class Gaussian:
    """Independent normals, N(mean, exp(log_std)^2), that the env clips to its bounds.

    log p(a) = sum_k -((a_k - mean_k) / std_k)^2 / 2 - log std_k - log(2 pi) / 2 of the unclipped sample.
    """

    def __init__(self, mean: Tensor, log_std: Tensor, valid: Tensor) -> None:
        """Mean (..., A, k); log_std (A, k), clamped here; valid (A, k) is 1 on real columns and 0 on padding."""
        self.mean = mean
        self.log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        self.valid = valid

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw raw actions; padded columns stay 0."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return (self.mean + self.log_std.exp() * noise) * self.valid

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean * self.valid

    def log_prob(self, actions: Tensor) -> Tensor:
        """Density of the unclipped sample."""
        scaled = (actions - self.mean) * (self.valid * torch.exp(-self.log_std))
        constant = ((self.log_std + HALF_LOG_TAU) * self.valid).sum(-1)  # (A,)
        return -0.5 * scaled.square().sum(-1) - constant

    def entropy(self) -> Tensor:
        """sum_k log std_k + (1 + log(2 pi)) / 2."""
        entropy = ((self.log_std + (0.5 + HALF_LOG_TAU)) * self.valid).sum(-1)  # (A,)
        return entropy.expand(self.mean.shape[:-1])

    def to_env(self, actions: Tensor) -> Tensor:
        """Clip to [-1, 1], as the env would."""
        return actions.clamp(-1, 1)


class TanhGaussian(Gaussian):
    """tanh(u) with u a `Gaussian`; the pre-tanh u is what is stored.

    log p(tanh u) = log p(u) - sum_k log(1 - tanh(u_k)^2), with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)).
    """

    def log_prob(self, actions: Tensor) -> Tensor:
        """Density of tanh(actions)."""
        return super().log_prob(actions) - (log_tanh_slope(actions) * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        """H(u) + E[log(1 - tanh(u)^2)], the expectation by Gauss-Hermite quadrature: no noise and no random numbers."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        nodes = self.mean.new_tensor(nodes)
        weights = self.mean.new_tensor(weights / weights.sum())
        points = self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * nodes  # (..., A, k, nodes)
        return super().entropy() + ((log_tanh_slope(points) @ weights) * self.valid).sum(-1)

    def to_env(self, actions: Tensor) -> Tensor:
        """Tanh."""
        return actions.tanh()


class ProductDistribution:
    """Independent heads side by side: one joint log-probability, one entropy."""

    def __init__(self, parts: Sequence[Distribution], columns: Sequence[int]) -> None:
        """`columns[i]` is the number of action columns of `parts[i]`."""
        self.parts = parts
        self.columns = list(columns)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Raw actions (..., A, U)."""
        return torch.cat([part.sample(generator) for part in self.parts], dim=-1)

    def mode(self) -> Tensor:
        """Raw actions of the deterministic policy (..., A, U)."""
        return torch.cat([part.mode() for part in self.parts], dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Sum over the heads, (..., A)."""
        pieces = zip(self.parts, actions.split(self.columns, dim=-1), strict=True)
        return torch.stack([part.log_prob(piece) for part, piece in pieces]).sum(0)

    def entropy(self) -> Tensor:
        """Sum over the heads, (..., A)."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def to_env(self, actions: Tensor) -> Tensor:
        """Raw actions -> env actions in [-1, 1], (..., A, U)."""
        pieces = zip(self.parts, actions.split(self.columns, dim=-1), strict=True)
        return torch.cat([part.to_env(piece) for part, piece in pieces], dim=-1)


class BoxHead:
    """How one Box becomes network outputs: a mean for each column, and a global log-std."""

    def __init__(self, columns: int, *, squash: bool) -> None:
        """`squash` chooses tanh to the bounds instead of clipping."""
        self.columns = columns
        self.output_columns = columns  # of the network
        self.std_columns = columns
        self.mask_columns = 0
        self.squash = squash

    def distribution(self, outputs: Tensor, log_std: Tensor, valid: Tensor, action_mask: Tensor) -> Distribution:
        """Outputs (..., A, k), log_std (A, k), valid (A, k), action_mask (..., A, 0), which a Box has no use for."""
        return (TanhGaussian if self.squash else Gaussian)(outputs, log_std, valid)

    def outputs_for(self, actions: Tensor) -> Tensor:
        """Network outputs whose mode is `actions` (in [-1, 1]): the bias that starts a policy there."""
        return torch.atanh(actions.clamp(-0.95, 0.95)) if self.squash else actions


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), stable for large |u| (algorithm.md 6)."""
    return 2 * (math.log(2) - u - functional.softplus(-2 * u))
