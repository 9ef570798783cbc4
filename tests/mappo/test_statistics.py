import math

import pytest
import torch
from torch import Tensor

from mappo.statistics import (
    across_seeds,
    interquartile_mean,
    mean_of_days,
    ratio_of_sums,
    student_t_cdf,
    student_t_quantile,
)


def weekly_process(weeks: int, repetitions: int, rng: torch.Generator) -> Tensor:
    """(repetitions, 7 weeks) days of mean 0: AR(1) within a week (0.8), weeks independent as in a split."""
    shocks = torch.randn(repetitions, weeks, 7, generator=rng, dtype=torch.float64)
    days = [shocks[..., 0]]
    for day in range(1, 7):
        days.append(0.8 * days[-1] + math.sqrt(1 - 0.8**2) * shocks[..., day])
    return torch.stack(days, -1).flatten(1)


def coverage(samples: Tensor, clusters: Tensor) -> tuple[float, float]:
    """Share of intervals that hold the true mean 0, and their mean width."""
    intervals = [ratio_of_sums(row, torch.ones_like(row), clusters, resamples=1000, seed=i)
                 for i, row in enumerate(samples)]  # fmt: skip
    hits = [estimate.low <= 0 <= estimate.high for estimate in intervals]
    widths = [estimate.high - estimate.low for estimate in intervals]
    return sum(hits) / len(hits), sum(widths) / len(widths)


def test_an_interval_over_weeks_covers_a_known_mean_and_one_over_days_does_not() -> None:
    samples = weekly_process(10, 500, torch.Generator().manual_seed(1))
    days = torch.arange(70)
    by_week, wide = coverage(samples, days // 7)
    by_day, narrow = coverage(samples, days)
    assert 0.92 <= by_week <= 0.98  # 500 intervals: the standard error of a share of 0.95 is 0.01
    assert by_day < 0.75
    assert wide > 1.5 * narrow


def test_a_ratio_is_that_of_the_sums_and_is_paired() -> None:
    idle = torch.tensor([100.0, 400.0, 100.0, 200.0, 300.0]).repeat_interleave(7)
    bound, cost = 0.75 * idle, 0.8 * idle
    weeks = torch.arange(35) // 7
    score = ratio_of_sums(idle - cost, idle - bound, weeks)
    # every day saves the same share, so the interval is a point however much the days differ
    assert score == pytest.approx((0.8, 0.8, 0.8))
    uneven = ratio_of_sums(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
    assert uneven.value == 0.5  # not the mean of 1 and 1/3


def test_a_mean_over_days_weights_days_of_a_short_week_like_all_others() -> None:
    values, weeks = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0, 0, 0, 1])
    assert mean_of_days(values, weeks).value == 4.0


def test_few_weeks_have_a_value_but_no_interval() -> None:
    values = torch.arange(28.0)
    estimate = mean_of_days(values, torch.arange(28) // 7)
    assert estimate.value == 13.5
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    five = mean_of_days(torch.arange(35.0), torch.arange(35) // 7)
    assert 3.0 <= five.low < five.value < five.high <= 31.0


def test_intervals_repeat_and_leave_the_global_generator_alone() -> None:
    values, weeks = torch.arange(70.0).sin(), torch.arange(70) // 7
    before = torch.get_rng_state()
    first = mean_of_days(values, weeks)
    assert first == mean_of_days(values, weeks)
    assert first != mean_of_days(values, weeks, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_names_and_order_of_clusters_do_not_matter_to_the_value() -> None:
    values, weeks = torch.arange(70.0).cos(), torch.arange(70) // 7
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    shuffled = mean_of_days(values[order], 5 * weeks[order] + 3)
    assert shuffled == pytest.approx(mean_of_days(values, weeks))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # nothing to leave out below 4
        ([100.0, 2.0, 4.0, -50.0], 3.0),
        ([1.0, 2.0, 3.0, 4.0, 100.0], 3.0),
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, -99.0], 4.5),  # 3, 4, 5, 6
    ],
)
def test_the_interquartile_mean_by_hand(values: list[float], mean: float) -> None:
    assert interquartile_mean(torch.tensor(values)) == mean


def test_below_five_seeds_the_summary_is_mean_and_range() -> None:
    summary = across_seeds(torch.tensor([0.9, 0.8, 0.94, 0.88], dtype=torch.float64))
    assert summary[:3] == pytest.approx((0.88, 0.8, 0.94))
    assert summary.kind == "mean and range"
    assert summary.seeds == 4


def test_from_five_seeds_it_is_the_interquartile_mean_with_an_interval() -> None:
    scores = torch.tensor([0.5, 0.88, 0.89, 0.90, 0.91], dtype=torch.float64)
    summary = across_seeds(scores)
    assert summary.value == pytest.approx(0.89)
    assert summary.kind.startswith("interquartile mean")
    assert 0.5 <= summary.low < 0.89 < summary.high <= 0.91
    assert summary == across_seeds(scores)
    assert across_seeds(torch.full((6,), 0.3))[:3] == pytest.approx((0.3, 0.3, 0.3))


def test_strata_are_tasks_each_resampled_on_its_own() -> None:
    # two tasks far apart: resampling within each keeps both, so the interval is narrow; pooled it would not be
    easy = torch.tensor([0.90, 0.91, 0.92, 0.93, 0.94], dtype=torch.float64)
    stratified = across_seeds(torch.stack([easy, easy - 0.8]))
    pooled = across_seeds(torch.cat([easy, easy - 0.8]))
    assert stratified.seeds == 5
    assert stratified.value == pooled.value
    assert stratified.high - stratified.low < 0.2 < pooled.high - pooled.low


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (51, 2.00758)]
)
def test_students_t_has_its_tabulated_quantiles(freedom: int, quantile: float) -> None:
    assert student_t_quantile(0.975, freedom) == pytest.approx(quantile, abs=1e-4)
    assert student_t_cdf(quantile, freedom) == pytest.approx(0.975, abs=1e-6)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"must be \(D,\) of the same days, got \[\(3,\), \(2,\), \(3,\)\]"):
        ratio_of_sums(torch.ones(3), torch.ones(2), torch.ones(3).long())
    with pytest.raises(ValueError, match="scores must be"):
        across_seeds(torch.ones(2, 3, 4))
