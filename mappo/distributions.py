"""Action distributions: network outputs -> samples, one joint log-probability and entropy per agent.

Data flow: Actor -> ProductDistribution -> rollout (sample) and update (log_prob, entropy). Every formula here is summed
over an agent's real action columns; padded ones count as 0. What is stored is the *raw* sample, before clipping or
tanh; `to_env` maps it to the [-1, 1] that an env takes.
Dims: (..., A, U) with any leading dims.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mappo.distributed import WHOLE, Share

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
QUADRATURE_NODES = 16
BETA_EDGE = 1e-6
BETA_START = 1.7  # the smaller of alpha and beta where a policy starts


class Distribution(Protocol):
    """One head's distribution; `ProductDistribution` joins several."""

    def sample(self, generator: torch.Generator | None = None, share: Share = WHOLE) -> Tensor:
        """Raw actions (..., A, columns); those of one rank's share (B, A, columns) of the copies, if not of all."""
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

    def __init__(self, mean: Tensor, log_std: Tensor, valid: Tensor, bounded: Tensor) -> None:
        """Mean (..., A, k); log_std (A, k), clamped here.

        Valid (A, k) is 1 on real columns and 0 on padding; bounded (A, k) bool marks those that live in [-1, 1].
        """
        self.mean = mean
        self.log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        self.valid = valid
        self.bounded = bounded

    def sample(self, generator: torch.Generator | None = None, share: Share = WHOLE) -> Tensor:
        """Draw raw actions; padded columns stay 0."""
        noise = numbers_like(self.mean, lambda x: x.normal_(generator=generator), share)
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
        return gaussian_entropy(self.log_std, self.valid).expand(self.mean.shape[:-1])

    def to_env(self, actions: Tensor) -> Tensor:
        """Clip to [-1, 1] where the space has bounds, as the env would."""
        return torch.where(self.bounded, actions.clamp(-1, 1), actions)


def gaussian_entropy(log_std: Tensor, valid: Tensor) -> Tensor:
    """Of the normals in the real columns: (..., A, k), within its bounds, and (A, k) -> (..., A)."""
    return ((log_std + (0.5 + HALF_LOG_TAU)) * valid).sum(-1)


class TanhGaussian(Gaussian):
    """tanh(u) with u a `Gaussian`; the pre-tanh u is what is stored.

    log p(tanh u) = log p(u) - sum_k log(1 - tanh(u_k)^2), with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)).
    """

    def log_prob(self, actions: Tensor) -> Tensor:
        """Density of tanh(actions)."""
        return super().log_prob(actions) - (log_tanh_slope(actions) * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        """H(u) + E[log(1 - tanh(u)^2)], the expectation by Gauss-Hermite quadrature: no noise and no random numbers."""
        nodes, weights = _quadrature(self.mean.dtype, self.mean.device)
        points = self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * nodes  # (..., A, k, nodes)
        return super().entropy() + ((log_tanh_slope(points) @ weights) * self.valid).sum(-1)

    def to_env(self, actions: Tensor) -> Tensor:
        """Tanh."""
        return actions.tanh()


class Beta:
    """Independent Beta(alpha, beta) on [0, 1], stretched to [-1, 1] (Chou et al., ICML 2017); x in [0, 1] is stored.

    alpha, beta = 1 + softplus(outputs) > 1: the density has one peak. log p(a) = log Beta(x) - log 2 with a = 2x - 1.
    """

    def __init__(self, outputs: Tensor, valid: Tensor) -> None:
        """Outputs (..., A, 2k): those of all alphas, then of all betas; valid (A, k)."""
        self.alpha, self.beta = (1 + functional.softplus(outputs)).chunk(2, dim=-1)
        self.valid = valid

    def sample(self, generator: torch.Generator | None = None, share: Share = WHOLE) -> Tensor:
        """Draw x as a ratio of Gamma samples, away from the ends, where the density may be 0 to rounding.

        How many random numbers that takes depends on alpha and beta, so each rank has a stream of its own.
        """
        if share.count > 1:
            generator = stream_of(generator, share, self.alpha.device)
        # torch.distributions draws from it too, but takes no generator
        gamma = torch._standard_gamma  # pyright: ignore[reportPrivateImportUsage]
        a, b = gamma(self.alpha, generator=generator), gamma(self.beta, generator=generator)
        return (a / (a + b)).clamp(BETA_EDGE, 1 - BETA_EDGE) * self.valid

    def mode(self) -> Tensor:
        """The mean, as for the other heads: the peak jumps to an end when the density is nearly flat."""
        return self.alpha / (self.alpha + self.beta) * self.valid

    def log_prob(self, actions: Tensor) -> Tensor:
        """Density of 2x - 1."""
        x = torch.where(self.valid > 0, actions, 0.5)
        log_density = (self.alpha - 1) * x.log() + (self.beta - 1) * torch.log1p(-x) - self._log_norm()
        return ((log_density - math.log(2)) * self.valid).sum(-1)

    def entropy(self) -> Tensor:
        """Sum over columns of log B - (a - 1) psi(a) - (b - 1) psi(b) + (a + b - 2) psi(a + b) + log 2."""
        a, b = self.alpha, self.beta
        entropy = self._log_norm() - (a - 1) * a.digamma() - (b - 1) * b.digamma() + (a + b - 2) * (a + b).digamma()
        return ((entropy + math.log(2)) * self.valid).sum(-1)

    def to_env(self, actions: Tensor) -> Tensor:
        """2x - 1."""
        return 2 * actions - 1

    def _log_norm(self) -> Tensor:
        return self.alpha.lgamma() + self.beta.lgamma() - (self.alpha + self.beta).lgamma()


class Categorical:
    """H independent choices, each among the options that its mask allows; the index is stored as a float."""

    def __init__(self, logits: Tensor, allowed: Tensor, valid: Tensor) -> None:
        """Logits and allowed (bool) (..., A, H, n), padded to the widest choice; valid (A, H) as in `Gaussian`."""
        self.allowed = allowed
        self.valid = valid
        self.log_p = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min).log_softmax(-1)

    def sample(self, generator: torch.Generator | None = None, share: Share = WHOLE) -> Tensor:
        """Draw by exponential races: the option with the smallest Exp(1) / p is i with probability p_i.

        Where no option is allowed, as for a dead agent, it is 0, which every choice has.
        """
        race = numbers_like(self.log_p, lambda x: x.exponential_(generator=generator), share)
        return (self.log_p.exp() / race).argmax(-1) * self.allowed.any(-1) * self.valid

    def mode(self) -> Tensor:
        """The likeliest option."""
        return self.log_p.argmax(-1) * self.valid

    def log_prob(self, actions: Tensor) -> Tensor:
        """Joint log-probability of the choices (..., A, H), (..., A)."""
        chosen = self.log_p.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)
        return (torch.where(self.valid > 0, chosen, 0.0)).sum(-1)

    def entropy(self) -> Tensor:
        """Over allowed options only, (..., A)."""
        log_p = torch.where(self.allowed, self.log_p, 0.0)
        entropy = -(torch.where(self.allowed, log_p.exp(), 0.0) * log_p).sum(-1)
        return (entropy * self.valid).sum(-1)

    def to_env(self, actions: Tensor) -> Tensor:
        """The index."""
        return actions


class ProductDistribution:
    """Independent heads side by side: one joint log-probability, one entropy."""

    def __init__(self, parts: Sequence[Distribution], columns: Sequence[int]) -> None:
        """`columns[i]` is the number of action columns of `parts[i]`."""
        self.parts = parts
        self.columns = list(columns)

    def sample(self, generator: torch.Generator | None = None, share: Share = WHOLE) -> Tensor:
        """Raw actions (..., A, U); see `Distribution`."""
        return torch.cat([part.sample(generator, share) for part in self.parts], dim=-1)

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
    """How all Box columns become network outputs: a mean for each and a global log-std, or for Beta two numbers."""

    mask_columns = 0

    def __init__(self, columns: int, kind: str) -> None:
        """`kind` is TrainConfig.action_dist."""
        self.kind = kind
        self.columns = columns
        self.output_columns = self.columns * (2 if kind == "beta" else 1)  # of the network
        self.std_columns = 0 if kind == "beta" else self.columns

    def distribution(
        self, outputs: Tensor, log_std: Tensor, valid: Tensor, bounded: Tensor, action_mask: Tensor
    ) -> Distribution:
        """Outputs (..., A, output_columns); log_std, valid, bounded (A, columns); action_mask has no columns."""
        if self.kind == "beta":
            return Beta(outputs, valid)
        return (TanhGaussian if self.kind == "tanh_gaussian" else Gaussian)(outputs, log_std, valid, bounded)

    def outputs_for(self, actions: Tensor) -> Tensor:
        """Network outputs whose mode is `actions` (A, X), in [-1, 1]: the bias that starts a policy there."""
        if self.kind == "gaussian":
            return actions
        inner = actions.clamp(-0.95, 0.95)
        if self.kind == "tanh_gaussian":
            return torch.atanh(inner)
        share = (inner + 1) / 2
        total = BETA_START / torch.minimum(share, 1 - share)  # alpha + beta, such that both exceed 1
        return torch.cat([share * total, (1 - share) * total], dim=-1).sub(1).expm1().log()

    def spread(self, facts: Tensor) -> Tensor:
        """What is known of each column (A, X), for each network output."""
        return facts.repeat(1, self.output_columns // self.columns)


class ChoiceHead:
    """How all choices become network outputs: a logit for each option."""

    std_columns = 0

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes[h]` is the number of options of choice h."""
        self.sizes = tuple(sizes)
        self.columns = len(sizes)
        self.output_columns = self.mask_columns = sum(sizes)

    def distribution(
        self, outputs: Tensor, log_std: Tensor, valid: Tensor, bounded: Tensor, action_mask: Tensor
    ) -> Distribution:
        """Outputs and action_mask (..., A, K), valid (A, H); log_std (A, 0) and bounded are not used."""
        return Categorical(self._apart(outputs, 0.0), self._apart(action_mask, False), valid)

    def outputs_for(self, actions: Tensor) -> Tensor:
        """Logits that give the choices `actions` (A, H) a probability of 2/3 each, so that they are also the mode."""
        logits = []
        for size, index in zip(self.sizes, actions.long().unbind(-1), strict=True):
            logits.append(functional.one_hot(index.clamp(0, size - 1), size) * math.log(2 * max(size - 1, 1)))
        return torch.cat(logits, dim=-1)

    def spread(self, facts: Tensor) -> Tensor:
        """What is known of each choice (A, H), for each network output."""
        return facts.repeat_interleave(torch.tensor(self.sizes, device=facts.device), dim=-1)

    def _apart(self, flat: Tensor, fill: float) -> Tensor:
        """(..., A, K) -> (..., A, H, n), each choice filled up to the widest."""
        most = max(self.sizes)
        if min(self.sizes) == most:
            return flat.unflatten(-1, (self.columns, most))
        parts = flat.split(self.sizes, dim=-1)
        return torch.stack([functional.pad(part, (0, most - part.shape[-1]), value=fill) for part in parts], dim=-2)


@functools.cache
def _quadrature(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights of a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    return (
        torch.tensor(nodes, dtype=dtype, device=device),
        torch.tensor(weights / weights.sum(), dtype=dtype, device=device),
    )


def numbers_like(x: Tensor, fill: Callable[[Tensor], Tensor], share: Share) -> Tensor:
    """Random numbers of x's shape (B, ...) and memory layout, which `fill` draws for the copies of all shares.

    So every copy meets the numbers that it would meet in one process, and all ranks' generators stay the same.
    """
    if share.count == 1:
        return fill(torch.empty_like(x))
    outer_first = sorted(range(x.dim()), key=lambda dim: -x.stride(dim))
    copies = len(x)
    shape = [share.count * copies if dim == 0 else x.shape[dim] for dim in outer_first]
    numbers = fill(x.new_empty(shape).permute([outer_first.index(dim) for dim in range(x.dim())]))
    return numbers.narrow(0, share.index * copies, copies)


def stream_of(generator: torch.Generator | None, share: Share, device: torch.device) -> torch.Generator:
    """A new generator of this rank's own, from a number that all ranks draw."""
    seed = torch.randint(2**62, (), generator=generator, device=device).item()
    return torch.Generator(device).manual_seed(int(seed) + share.index)


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), stable for large |u|."""
    return 2 * (math.log(2) - u - functional.softplus(-2 * u))
