"""Action distributions against torch.distributions and numerical integration."""

import math

import torch

from mappo.distributions import BoxHead, Gaussian, ProductDistribution, TanhGaussian


def test_gaussian_agrees_with_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(4, 2, 3, generator=rng), torch.randn(2, 3, generator=rng)
    ours = Gaussian(mean, log_std, torch.ones(2, 3))
    theirs = torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
    actions = ours.sample(rng)
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))


def test_tanh_gaussian_agrees_with_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(4, 2, 3, generator=rng), torch.full((2, 3), -0.5)
    ours = TanhGaussian(mean, log_std, torch.ones(2, 3))
    base = torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
    theirs = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform())
    raw = ours.sample(rng)
    torch.testing.assert_close(ours.log_prob(raw), theirs.log_prob(raw.tanh()).sum(-1), rtol=1e-3, atol=1e-3)


def test_tanh_entropy_equals_the_integral() -> None:
    for mean, log_std in ((0.0, -1.0), (1.5, -0.5), (-0.7, 0.3)):
        ours = TanhGaussian(torch.full((1, 1), mean), torch.full((1, 1), log_std), torch.ones(1, 1))
        u = torch.linspace(mean - 8 * math.exp(log_std), mean + 8 * math.exp(log_std), 20001).unsqueeze(-1)
        grid = TanhGaussian(torch.full((1, 1), mean), torch.full((1, 1), log_std), torch.ones(1, 1))
        density = Gaussian(torch.full((1, 1), mean), torch.full((1, 1), log_std), torch.ones(1, 1)).log_prob(u).exp()
        integral = -torch.trapezoid(density * grid.log_prob(u), u.squeeze(-1), dim=0)
        torch.testing.assert_close(ours.entropy().squeeze(), integral.squeeze(), rtol=2e-3, atol=2e-3)


def test_padded_columns_count_for_nothing() -> None:
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    mean = torch.zeros(3, 2, 2)
    for kind in (Gaussian, TanhGaussian):
        actions = torch.ones(3, 2, 2)
        shifted = actions + 5 * (1 - valid)
        dist = kind(mean, torch.zeros(2, 2), valid)
        assert torch.equal(dist.log_prob(actions), dist.log_prob(shifted))
        narrow = kind(mean[..., :1], torch.zeros(2, 1), torch.ones(2, 1))
        torch.testing.assert_close(dist.log_prob(actions)[:, 1], narrow.log_prob(actions[..., :1])[:, 1])
        torch.testing.assert_close(dist.entropy()[:, 1], narrow.entropy()[:, 1])
        assert (dist.sample(torch.Generator().manual_seed(0))[:, 1, 1] == 0).all()


def test_a_product_adds_log_probabilities() -> None:
    ones = torch.ones(1, 1)
    parts = [Gaussian(torch.zeros(2, 1, 1), 0 * ones, ones), TanhGaussian(torch.ones(2, 1, 1), 0 * ones, ones)]
    product = ProductDistribution(parts, [1, 1])
    actions = torch.tensor([0.3, -0.2]).expand(2, 1, 2)
    want = parts[0].log_prob(actions[..., :1]) + parts[1].log_prob(actions[..., 1:])
    torch.testing.assert_close(product.log_prob(actions), want)
    assert product.to_env(torch.tensor([[[3.0, 0.0]]])).tolist() == [[[1.0, 0.0]]]


def test_sampling_leaves_the_global_rng_alone() -> None:
    before = torch.get_rng_state()
    Gaussian(torch.zeros(2, 1, 1), torch.zeros(1, 1), torch.ones(1, 1)).sample(torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_head_starts_at_a_given_action() -> None:
    action = torch.tensor([[0.5, -1.0]])
    squashed = BoxHead(2, squash=True)
    mean = squashed.outputs_for(action)
    dist = squashed.distribution(mean, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 0))
    torch.testing.assert_close(dist.to_env(dist.mode()), torch.tensor([[0.5, -0.95]]))
    assert torch.equal(BoxHead(2, squash=False).outputs_for(action), action)


def test_log_std_is_clamped() -> None:
    dist = Gaussian(torch.zeros(1, 1, 2), torch.tensor([[-9.0, 9.0]]), torch.ones(1, 2))
    assert dist.log_std.tolist() == [[-5.0, 2.0]]
