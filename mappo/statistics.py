"""How sure a result is: bootstrap over clusters of days, and summaries across seeds. Pure functions.

Data flow: J per day, one value per seed -> `Estimate`, `SeedSummary` -> evaluation tables and reports. Everything
float64. Randomness: a generator made from `seed` in every call, so that equal inputs give equal intervals.
Dims: D days, C clusters, R resamples, K tasks, N seeds.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

RESAMPLES = 10_000
LEVEL = 0.95
MIN_CLUSTERS = 5
"""Fewer clusters cannot support a 95 % interval: it would reach beyond the extremes of their bootstrap."""
MIN_SEEDS = 5
"""From here on seeds are summarised by their interquartile mean, below by mean and range."""


class Estimate(NamedTuple):
    """A value and its interval; the ends are NaN where there is too little data for one."""

    value: float
    low: float
    high: float


class SeedSummary(NamedTuple):
    """One number for several seeds of a configuration."""

    value: float
    low: float
    high: float
    kind: Literal["mean and range", "interquartile mean and 95 % interval"]
    seeds: int


def ratio_of_sums(
    numerator: Tensor,
    denominator: Tensor,
    clusters: Tensor,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """sum(numerator) / sum(denominator) over days, with a bootstrap interval over whole clusters of days.

    Neighbouring days resemble each other, so C whole clusters (weeks) are drawn with replacement, each with all of its
    days, and the ratio is formed anew from the sums. The interval is the expanded percentile interval (Hesterberg 2015,
    arXiv:1411.5279, section 5.3): its tails are Phi(-sqrt(C / (C - 1)) t_{C - 1}), which undoes the narrowness of the
    plain percentiles of few clusters. Both inputs belong to the same days, so comparisons are paired.

    Examples: the score is idle - J over idle - bound; a mean gap is J - bound over ones; a relative gap J - bound over
    bound. With fewer than `MIN_CLUSTERS` clusters the ends are NaN.

    Args:
        numerator: (D,).
        denominator: (D,).
        clusters: (D,) integers; days with equal numbers are drawn together.
        level: coverage aimed at.
        resamples: R.
        seed: of the generator.

    Raises:
        ValueError: no days, or shapes that differ.
    """
    if not numerator.shape == denominator.shape == clusters.shape or numerator.ndim != 1 or not len(numerator):
        shapes = [tuple(values.shape) for values in (numerator, denominator, clusters)]
        raise ValueError(f"numerator, denominator and clusters must be (D,) of the same days, got {shapes}")
    names, members = clusters.unique(return_inverse=True)
    sums = torch.zeros(len(names), 2, dtype=torch.float64)  # (C, 2)
    sums.index_add_(0, members.cpu(), torch.stack([numerator, denominator], -1).double().cpu())
    total = sums.sum(0)
    value = float(total[0] / total[1])
    count = len(names)
    if count < MIN_CLUSTERS:
        return Estimate(value, math.nan, math.nan)
    drawn = sums[_indices((resamples, count), count, seed)].sum(1)  # (R, 2)
    tail = _normal_cdf(-math.sqrt(count / (count - 1)) * student_t_quantile((1 + level) / 2, count - 1))
    low, high = _quantiles(drawn[:, 0] / drawn[:, 1], tail)
    return Estimate(value, low, high)


def mean_of_days(values: Tensor, clusters: Tensor, *, seed: int = 0) -> Estimate:
    """The mean over days (D,), with the interval of `ratio_of_sums`."""
    return ratio_of_sums(values, torch.ones_like(values), clusters, seed=seed)


def interquartile_mean(values: Tensor) -> Tensor:
    """Mean of the middle half along the last dim: floor(n / 4) values are left out at each end."""
    count = values.shape[-1]
    cut = count // 4
    return values.sort(-1).values[..., cut : count - cut].mean(-1)


def across_seeds(scores: Tensor, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> SeedSummary:
    """One number for several seeds: mean and range below `MIN_SEEDS` seeds, from there on IQM and interval.

    The interval is the stratified percentile bootstrap of Agarwal et al. 2021 (arXiv:2108.13264). Its strata are the
    K tasks (scenarios), each with N runs trained for it alone: in every resample each task keeps N runs, drawn with
    replacement from its own, independently of the other tasks; the interquartile mean is over all K N values. With one
    task there is one stratum and this is the bootstrap over seeds. Weeks are no strata: a seed is the same network in
    all of them, so drawing seeds anew for each week would average away exactly the spread that is to be measured.

    Args:
        scores: (N,) of one task or (K, N).
        level: coverage aimed at.
        resamples: R.
        seed: of the generator.

    Raises:
        ValueError: no scores, or another number of dims.
    """
    scores = torch.atleast_2d(scores).double().cpu()
    if scores.ndim != 2 or not scores.numel():
        raise ValueError(f"scores must be (seeds,) or (tasks, seeds), got {tuple(scores.shape)}")
    tasks, seeds = scores.shape
    if seeds < MIN_SEEDS:
        mean, low, high = float(scores.mean()), float(scores.min()), float(scores.max())
        return SeedSummary(mean, low, high, "mean and range", seeds)
    drawn = _indices((tasks, resamples, seeds), seeds, seed)
    resampled = scores[torch.arange(tasks)[:, None, None], drawn]  # (K, R, N)
    means = interquartile_mean(resampled.movedim(1, 0).flatten(1))
    low, high = _quantiles(means, (1 - level) / 2)
    value = float(interquartile_mean(scores.flatten()))
    return SeedSummary(value, low, high, "interquartile mean and 95 % interval", seeds)


def student_t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t for whole degrees of freedom >= 1 and probability in (0.5, 1), to 1e-9."""
    low, high = 0.0, 1.0
    while student_t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def student_t_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 and whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    series = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        series += term
    within = 2 / math.pi * (angle + sine * series) if odd else sine * series  # P(|T| <= t)
    return (1 + within) / 2


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _indices(shape: tuple[int, ...], below: int, seed: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def _quantiles(values: Tensor, tail: float) -> tuple[float, float]:
    ends = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])
