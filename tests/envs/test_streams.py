import torch

from envs.streams import normal, uniform

COPY, EPISODE = torch.arange(500), torch.zeros(500, dtype=torch.int64)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    u = uniform(1, COPY, EPISODE, range(400))
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    share = torch.histc(u, 20, 0, 1) / u.numel()
    assert (share - 0.05).abs().max() < 0.002  # 4 standard deviations
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.001


def test_normal_numbers_have_mean_0_variance_1_and_normal_tails() -> None:
    n = normal(1, COPY, EPISODE, range(400))
    assert abs(n.mean()) < 0.01
    assert abs(n.std() - 1) < 0.01
    assert abs((n.abs() < 1).double().mean() - 0.6827) < 0.005
    assert abs((n.abs() > 3).double().mean() - 0.0027) < 0.0005
    assert torch.isfinite(n).all()


def test_copies_episodes_draws_and_seeds_are_uncorrelated() -> None:
    u = uniform(1, COPY, EPISODE, range(400))
    assert abs(correlation(u[1:], u[:-1])) < 0.01
    assert abs(correlation(u[:, 1:], u[:, :-1])) < 0.01
    assert abs(correlation(u, uniform(1, COPY, EPISODE + 1, range(400)))) < 0.01
    assert abs(correlation(u, uniform(2, COPY, EPISODE, range(400)))) < 0.01
    assert u.unique().numel() == u.numel()


def test_a_number_depends_on_its_own_address_only() -> None:
    u = uniform(7, COPY, EPISODE + 3, range(50))
    assert torch.equal(uniform(7, COPY[[42, 5]], EPISODE[:2] + 3, range(50)), u[[42, 5]])
    assert torch.equal(uniform(7, COPY, EPISODE + 3, range(20, 30)), u[:, 20:30])
    n = normal(7, COPY, EPISODE + 3, range(50))
    assert torch.equal(normal(7, COPY, EPISODE + 3, range(20, 30)), n[:, 20:30])


def test_numbers_are_those_of_splitmix64() -> None:
    """The same hash in exact Python integers: seeds of older runs keep their meaning."""
    mask, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mixed(x: int) -> int:
        x &= mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    def number(seed: int, copy: int, episode: int, draw: int) -> float:
        x = mixed(seed + golden)
        for part in (copy, episode, draw + 1):
            x = mixed(x + part * golden)
        return (x >> 11) * 2.0**-53

    found = uniform(42, torch.tensor([0, 9]), torch.tensor([3, 1]), range(5, 8)).tolist()
    assert found == [[number(42, copy, episode, draw) for draw in (5, 6, 7)] for copy, episode in ((0, 3), (9, 1))]
