"""Running statistics against numpy."""

import numpy as np
import torch

from mappo.normalization import RunningMeanStd, ValueNorm


def test_running_statistics_equal_those_of_all_data_at_once() -> None:
    rng = torch.Generator().manual_seed(0)
    norm = RunningMeanStd(4, torch.tensor([0, 0, 1]))
    chunks = [torch.randn(50, 3, 4, generator=rng) * 3 + torch.arange(3.0).view(3, 1) for _ in range(6)]
    for first, second in zip(chunks[::2], chunks[1::2], strict=True):
        norm.gather(first, torch.ones_like(first, dtype=torch.bool))
        norm.gather(second, torch.ones_like(second, dtype=torch.bool))
        norm.commit()
    data = torch.cat(chunks).double().numpy()
    for row, pooled in enumerate([data[:, :2].reshape(-1, 4), data[:, 2]]):
        np.testing.assert_allclose(norm.mean[row], pooled.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(norm.std()[row], pooled.std(0), rtol=1e-5)
        assert (norm.count[row] == len(pooled)).all()
    assert norm.mean.dtype == torch.float64


def test_statistics_change_only_at_commit_and_ignore_the_dead() -> None:
    norm = RunningMeanStd(1, torch.tensor([0, 0]))
    x = torch.tensor([[[1.0], [100.0]], [[3.0], [100.0]]])
    weight = torch.tensor([[[True], [False]]] * 2)
    norm.gather(x, weight)
    assert torch.equal(norm(x), x.clamp(max=10))
    norm.commit()
    assert norm.mean.item() == 2
    assert abs(norm.std().item() - 1) < 1e-6


def test_a_constant_column_becomes_0_and_outliers_are_clipped() -> None:
    norm = RunningMeanStd(1, torch.tensor([0]))
    x = torch.full((8, 1, 1), 0.3)
    norm.gather(x, torch.ones_like(x, dtype=torch.bool))
    norm.commit()
    assert norm(x).abs().max() < 1e-3
    assert norm(x + 5).max() == 10


def test_each_agent_and_column_counts_for_itself() -> None:
    """Agent 1 lives in the first copy only, and has one column."""
    norm = RunningMeanStd(2, torch.tensor([0, 1]))
    x = torch.arange(8.0).view(2, 2, 2)
    weight = torch.tensor([[[True, True], [True, False]], [[True, True], [False, False]]])
    norm.gather(x, weight)
    norm.commit()
    assert norm.count.tolist() == [[2, 2], [1, 0]]
    assert norm.mean.tolist() == [[2, 3], [2, 0]]
    assert norm.std()[1, 1] == 1


def test_a_disabled_normaliser_is_the_identity() -> None:
    norm = RunningMeanStd(1, torch.tensor([0]), enabled=False)
    x = torch.full((2, 1, 1), 99.0)
    norm.gather(x, torch.ones_like(x, dtype=torch.bool))
    norm.commit()
    assert torch.equal(norm(x), x)


def test_value_norm_equals_the_debiased_averages() -> None:
    rng = np.random.default_rng(0)
    norm = ValueNorm(1)
    m = q = d = 0.0
    for _ in range(5):
        returns = rng.normal(3, 2, size=(7, 4, 1))
        norm.update(torch.tensor(returns, dtype=torch.float32), torch.ones(7, 4, 1, dtype=torch.bool))
        m, q, d = 0.99 * m + 0.01 * returns.mean(), 0.99 * q + 0.01 * (returns**2).mean(), 0.99 * d + 0.01
    mu, sigma = norm.stats()
    np.testing.assert_allclose(mu.item(), m / d, rtol=1e-6)
    np.testing.assert_allclose(sigma.item(), np.sqrt(q / d - (m / d) ** 2), rtol=1e-6)
    values = torch.randn(3, 1)
    torch.testing.assert_close(norm.denormalize(norm.normalize(values)), values)


def test_value_norm_has_a_floor_and_starts_as_the_identity() -> None:
    norm = ValueNorm(2)
    values = torch.tensor([[5.0, 7.0]])
    assert torch.equal(norm.normalize(values), values)
    alive = torch.tensor([[True, False]])
    norm.update(values, alive)
    mu, sigma = norm.stats()
    torch.testing.assert_close(mu, torch.tensor([5.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor([0.05, 1.0], dtype=torch.float64))


def test_statistics_are_saved_with_the_module() -> None:
    assert set(ValueNorm(1).state_dict()) == {"m", "q", "d"}
    assert set(RunningMeanStd(1, torch.tensor([0])).state_dict()) == {"count", "mean", "m2"}
