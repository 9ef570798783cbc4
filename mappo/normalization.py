"""Running statistics: of observations (part of the deployed policy) and of returns (ValueNorm).

Data flow: rollout -> RunningMeanStd.gather, .commit after the update; returns -> ValueNorm.update before the epochs.
All statistics are float64 buffers, so that `state_dict` holds them on every device.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mappo.distributed import Add, alone

STD_EPS = 1e-8


class Moments(NamedTuple):
    """Number of entries, their mean and sum of squared deviations, per column."""

    n: Tensor
    mean: Tensor
    m2: Tensor


class Sums(NamedTuple):
    """Sums over many batches of deviations from an origin: a few calls a batch, exact while it is near the mean."""

    origin: Tensor
    n: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def around(cls, x: Tensor, weight: Tensor | None) -> "Sums":
        """Of nothing yet, around the mean of a first batch, or 0 where nothing of it counts; arguments as `add`."""
        weight = torch.ones_like(x) if weight is None else weight.to(x)
        origin = (x * weight).sum(0) / weight.sum(0).clamp(min=1)
        return cls(origin, *(torch.zeros_like(origin) for _ in range(3)))

    def add(self, x: Tensor, weight: Tensor | None) -> None:
        """Take in x (N, ...) float64, counting each entry `weight` times (same shape, 0 or 1; None: once)."""
        deviation = x - self.origin
        self.n.add_(len(x) if weight is None else weight.sum(0))
        if weight is not None:
            deviation.mul_(weight)
        self.total.add_(deviation.sum(0))
        self.squares.add_(deviation.square_().sum(0))

    def moments(self) -> Moments:
        """Of everything that was added."""
        mean = self.total / self.n.clamp(min=1)
        return Moments(self.n, self.origin + mean, (self.squares - self.total * mean).clamp(min=0))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two samples (Chan, Golub & LeVeque 1983)."""
    count = a.n + b.n
    share = b.n / count.clamp(min=1)
    delta = b.mean - a.mean
    return Moments(count, a.mean + delta * share, a.m2 + b.m2 + delta.square() * a.n * share)


def pool_moments(moments: Moments, group_ids: Tensor, num_groups: int) -> Moments:
    """Merge rows (A, O) into groups (P, O): the law of total variance over the rows of each group."""
    zeros = moments.n.new_zeros(num_groups, *moments.n.shape[1:])
    count = zeros.index_add(0, group_ids, moments.n)
    mean = zeros.index_add(0, group_ids, moments.n * moments.mean) / count.clamp(min=1)
    between = moments.n * (moments.mean - mean[group_ids]).square()
    return Moments(count, mean, zeros.index_add(0, group_ids, moments.m2 + between))


def add_moments(moments: Moments, add: Add) -> Moments:
    """Moments of the union of all ranks' samples, as in `pool_moments`."""
    count = add(moments.n.clone())
    mean = add(moments.n * moments.mean) / count.clamp(min=1)
    return Moments(count, mean, add(moments.m2 + moments.n * (moments.mean - mean).square()))


class RunningMeanStd(nn.Module):
    """(x - mean) / std, clipped to +-10, with one row of statistics for each policy.

    `gather` collects a rollout's raw inputs, `commit` merges them once the update is over: what the buffer holds stays
    what the policy saw. Before the first commit it is the identity (clipped). Dead agents and padding never count.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    row_ids: Tensor

    def __init__(self, num_columns: int, row_ids: Tensor, *, enabled: bool = True, clip: float = 10.0) -> None:
        """`row_ids` (A,) says which row of statistics each of the A input rows belongs to."""
        super().__init__()
        self.num_rows = int(row_ids.max()) + 1
        self.enabled = enabled
        self.clip = clip
        zeros = torch.zeros(self.num_rows, num_columns, dtype=torch.float64)
        for name in ("count", "mean", "m2"):
            self.register_buffer(name, zeros.clone())
        self.register_buffer("row_ids", row_ids.clone(), persistent=False)
        self._gathered: Sums | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(..., A, O) -> (..., A, O)."""
        if not self.enabled:
            return x
        mean, std = self.mean.to(x.dtype), self.std().to(x.dtype)
        return ((x - mean[self.row_ids]) / std[self.row_ids]).clamp(-self.clip, self.clip)

    def std(self) -> Tensor:
        """(P, O) population standard deviation; 1 where nothing was seen yet. A constant column maps to 0."""
        variance = self.m2 / self.count.clamp(min=1)
        return torch.where(self.count > 0, (variance + STD_EPS).sqrt(), 1.0)

    def gather(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Remember the moments of x (B, A, O), counting only entries where weight (B, A, O) is True; None: all."""
        if self.enabled:
            x = x.double()  # the square of a large float32 is none
            if self._gathered is None:
                self._gathered = Sums.around(x, weight)
            self._gathered.add(x, weight)

    def non_finite(self) -> tuple[int, int] | None:
        """Row and column of an input that was gathered and not finite; None without any."""
        if self._gathered is None:
            return None
        broken = (~self._gathered.squares.isfinite()).nonzero().tolist()
        return (broken[0][0], broken[0][1]) if broken else None

    def commit(self, add: Add = alone) -> None:
        """Merge what was gathered into the statistics; `add` sums over the ranks that gathered from other copies."""
        if self._gathered is None:
            return
        pooled = pool_moments(self._gathered.moments(), self.row_ids, self.num_rows)
        if add is not alone:
            pooled = add_moments(pooled, add)
        self.count, self.mean, self.m2 = merge_moments(Moments(self.count, self.mean, self.m2), pooled)
        self._gathered = None


class ValueNorm(nn.Module):
    """Running mean and standard deviation of returns, debiased as Adam's moments are.

    m <- beta m + (1 - beta) mean(R), likewise q for R^2 and d for 1;
    mu = m / d, var = max(q / d - mu^2, 1e-4 q / d + 1e-12). One column for each value column V. Identity until updated.
    """

    m: Tensor
    q: Tensor
    d: Tensor

    def __init__(self, num_values: int, *, beta: float = 0.99, enabled: bool = True) -> None:
        """`beta` is the share that the past keeps in one iteration."""
        super().__init__()
        self.beta = beta
        self.enabled = enabled
        for name in ("m", "q", "d"):
            self.register_buffer(name, torch.zeros(num_values, dtype=torch.float64))

    def stats(self) -> tuple[Tensor, Tensor]:
        """Mu and sigma, (V,) float64."""
        debias = torch.where(self.d > 0, self.d, 1.0)
        mu, mean_square = self.m / debias, self.q / debias
        variance = torch.maximum(mean_square - mu.square(), 1e-4 * mean_square + 1e-12)
        return mu, torch.where(self.d > 0, variance.sqrt(), 1.0)

    def update(self, returns: Tensor, alive: Tensor, add: Add = alone) -> None:
        """Take in returns (..., V) where alive (..., V); a column without any keeps its statistics.

        `add` sums over the ranks that hold the other copies.
        """
        if not self.enabled:
            return
        returns, weight = returns.flatten(0, -2).double(), alive.flatten(0, -2).double()
        count = add(weight.sum(0))
        rate = (count > 0).double() * (1 - self.beta)
        for old, value in ((self.m, returns), (self.q, returns.square()), (self.d, torch.ones_like(returns))):
            old.lerp_(add((value * weight).sum(0)) / count.clamp(min=1), rate)

    def normalize(self, values: Tensor) -> Tensor:
        """(values - mu) / sigma."""
        mu, sigma = self.stats()
        return ((values - mu) / sigma).to(values.dtype)

    def denormalize(self, values: Tensor) -> Tensor:
        """Values * sigma + mu."""
        mu, sigma = self.stats()
        return (values * sigma + mu).to(values.dtype)
