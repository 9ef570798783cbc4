"""Action distributions against torch.distributions, numerical integration and seeded samples."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mappo.distributions import (
    Beta,
    BoxHead,
    Categorical,
    ChoiceHead,
    Distribution,
    Gaussian,
    ProductDistribution,
    TanhGaussian,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(mean: Tensor, log_std: Tensor, valid: Tensor | None = None, kind: type[Gaussian] = Gaussian) -> Gaussian:
    valid = torch.ones_like(log_std) if valid is None else valid
    return kind(mean, log_std, valid, torch.ones_like(log_std, dtype=torch.bool))


def single(mean: float, log_std: float, kind: type[Gaussian] = Gaussian) -> Gaussian:
    return gaussian(torch.full((1, 1), mean), torch.full((1, 1), log_std), kind=kind)


def test_gaussian_agrees_with_torch() -> None:
    mean, log_std = torch.randn(4, 2, 3, generator=rng()), torch.randn(2, 3, generator=rng(1))
    ours = gaussian(mean, log_std)
    theirs = torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
    actions = ours.sample(rng())
    torch.testing.assert_close(ours.log_prob(actions), theirs.log_prob(actions).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))


def test_tanh_gaussian_agrees_with_torch() -> None:
    mean, log_std = torch.randn(4, 2, 3, generator=rng()), torch.full((2, 3), -0.5)
    ours = gaussian(mean, log_std, kind=TanhGaussian)
    base = torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
    theirs = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform())
    raw = ours.sample(rng())
    torch.testing.assert_close(ours.log_prob(raw), theirs.log_prob(raw.tanh()).sum(-1), rtol=1e-3, atol=1e-3)


def test_tanh_entropy_equals_the_integral() -> None:
    for mean, log_std in ((0.0, -1.0), (1.5, -0.5), (-0.7, 0.3)):
        ours = single(mean, log_std, TanhGaussian)
        u = torch.linspace(mean - 8 * math.exp(log_std), mean + 8 * math.exp(log_std), 20001).unsqueeze(-1)
        density = single(mean, log_std).log_prob(u).exp()
        integral = -torch.trapezoid(density * ours.log_prob(u), u.squeeze(-1), dim=0)
        torch.testing.assert_close(ours.entropy().squeeze(), integral.squeeze(), rtol=2e-3, atol=2e-3)


def beta(seed: int = 0) -> Beta:
    """(5, 2 agents, 3 columns), alpha and beta between 1 and about 5."""
    return Beta(torch.randn(5, 2, 6, generator=rng(seed)) * 2, torch.ones(2, 3))


def stretched(ours: Beta) -> torch.distributions.TransformedDistribution:
    base = torch.distributions.Beta(ours.alpha, ours.beta)
    return torch.distributions.TransformedDistribution(base, torch.distributions.AffineTransform(-1.0, 2.0))


def test_beta_agrees_with_torch() -> None:
    ours = beta()
    raw = ours.sample(rng())
    torch.testing.assert_close(ours.log_prob(raw), stretched(ours).log_prob(ours.to_env(raw)).sum(-1))
    base = torch.distributions.Beta(ours.alpha, ours.beta)
    torch.testing.assert_close(ours.entropy(), (base.entropy() + math.log(2)).sum(-1))
    torch.testing.assert_close(ours.mode(), base.mean)


def test_betas_density_in_env_units_integrates_to_1_and_its_entropy_is_the_integral() -> None:
    ours = Beta(torch.tensor([[0.3, 1.4]]), torch.ones(1, 1))
    x = torch.linspace(1e-5, 1 - 1e-5, 20001).view(-1, 1, 1)
    log_p, a = ours.log_prob(x).squeeze(-1), ours.to_env(x).flatten()
    torch.testing.assert_close(torch.trapezoid(log_p.exp(), a), torch.tensor(1.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(-torch.trapezoid(log_p.exp() * log_p, a), ours.entropy().squeeze(), rtol=0, atol=1e-3)


def test_beta_samples_have_its_mean_and_variance() -> None:
    outputs = torch.tensor([[-2.0, 0.0, 3.0, 1.0, -1.0, 0.0]])
    ours = Beta(outputs.expand(40000, 1, 6), torch.ones(1, 3))
    theirs = torch.distributions.Beta(ours.alpha[0], ours.beta[0])
    samples = ours.sample(rng())
    torch.testing.assert_close(samples.mean(0), theirs.mean, rtol=0, atol=0.005)
    torch.testing.assert_close(samples.var(0), theirs.variance, rtol=0.03, atol=0)


def test_beta_stays_finite_at_both_ends() -> None:
    ours = Beta(torch.tensor([[-20.0, 30.0, 30.0, -20.0]]).expand(200, 1, 4), torch.ones(1, 2))
    samples = ours.sample(rng())
    assert samples.amin() > 0
    assert samples.amax() < 1
    assert torch.isfinite(ours.log_prob(samples)).all()
    assert torch.isfinite(ours.entropy()).all()


def test_unbounded_columns_are_not_clipped() -> None:
    ones = torch.ones(1, 3)
    dist = Gaussian(torch.zeros(1, 3), 0 * ones, ones, torch.tensor([[True, False, True]]))
    assert dist.to_env(torch.tensor([[5.0, 5.0, -5.0]])).tolist() == [[1.0, 5.0, -1.0]]


def categorical(*, seed: int = 0, masked: bool = True) -> tuple[Categorical, Tensor]:
    """(6, 2 agents, 3 choices of 2, 4 and 3) and its logits (6, 2, 9)."""
    head = ChoiceHead((2, 4, 3))
    logits = torch.randn(6, 2, 9, generator=rng(seed)) * 2
    mask = torch.rand(6, 2, 9, generator=rng(seed + 1)) < (0.6 if masked else 1.0)
    mask[..., [1, 2, 8]] = True
    nothing = torch.zeros(2, 0)
    dist = head.distribution(logits.requires_grad_(), nothing, torch.ones(2, 3), nothing, mask)
    assert isinstance(dist, Categorical)
    return dist, mask


@pytest.mark.parametrize("masked", [False, True])
def test_categorical_agrees_with_torch(masked: bool) -> None:
    dist, mask = categorical(masked=masked)
    actions = dist.sample(rng())
    logits = torch.randn(6, 2, 9, generator=rng()) * 2
    want = wanted_entropy = torch.zeros(6, 2)
    pieces = zip(logits.split([2, 4, 3], -1), mask.split([2, 4, 3], -1), strict=True)
    for i, (piece, allowed) in enumerate(pieces):
        chosen = actions[..., i]
        theirs = torch.distributions.Categorical(logits=piece.masked_fill(~allowed, -1e9))
        want = want + theirs.log_prob(chosen)
        wanted_entropy = wanted_entropy + theirs.entropy()
        assert torch.equal(dist.mode()[..., i], theirs.probs.argmax(-1).float())
    torch.testing.assert_close(dist.log_prob(actions), want)
    torch.testing.assert_close(dist.entropy(), wanted_entropy)


def test_entropy_counts_allowed_options_only() -> None:
    zeros, ones = torch.zeros(1, 1, 4), torch.ones(1, 1)
    for allowed in range(1, 5):
        dist = Categorical(zeros, (torch.arange(4) < allowed).view(1, 1, 4), ones)
        torch.testing.assert_close(dist.entropy(), torch.tensor([math.log(allowed)]))


def test_masked_options_get_exactly_no_gradient() -> None:
    logits = torch.randn(50, 1, 5, generator=rng()).requires_grad_()
    mask = torch.rand(50, 1, 5, generator=rng(1)) < 0.5
    mask[..., 2] = True
    dist = ChoiceHead((5,)).distribution(logits, torch.zeros(1, 0), torch.ones(1, 1), torch.zeros(1, 0), mask)
    (dist.log_prob(dist.sample(rng())).exp().sum() + dist.entropy().square().sum()).backward()
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0).all()
    several = mask.sum(-1, keepdim=True) > 1
    assert (logits.grad[mask & several] != 0).all()


def test_a_row_without_any_option_is_finite_and_has_no_gradient() -> None:
    """So is the row of a dead agent, or of one that lacks the choice."""
    logits = torch.randn(3, 2, 5, generator=rng()).requires_grad_()
    mask = torch.ones(3, 2, 5, dtype=torch.bool)
    mask[0] = mask[:, 1, 2:] = False
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    dist = ChoiceHead((2, 3)).distribution(logits, torch.zeros(2, 0), valid, torch.zeros(2, 0), mask)
    actions = dist.sample(rng())
    assert (actions[0] == 0).all(), "option 0 is in every agent's space"
    assert torch.isfinite(dist.log_prob(actions)).all()
    assert (dist.entropy()[0] == 0).all()
    (dist.log_prob(actions).sum() + dist.entropy().sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[:, 1, 2:] == 0).all()
    assert (logits.grad[1:, 0] != 0).all()


def test_choices_are_drawn_as_often_as_they_should_be_and_never_masked() -> None:
    logits = torch.tensor([0.0, 1.0, 30.0, -1.0, 2.0])
    mask = torch.tensor([True, True, False, True, True])
    many = logits.expand(40000, 1, 5), mask.expand(40000, 1, 5)
    nothing = torch.zeros(1, 0)
    dist = ChoiceHead((5,)).distribution(many[0], nothing, torch.ones(1, 1), nothing, many[1])
    counts = torch.bincount(dist.sample(rng()).long().flatten(), minlength=5)
    want = logits.masked_fill(~mask, -math.inf).softmax(-1)
    assert counts[2] == 0
    torch.testing.assert_close(counts / 40000, want, rtol=0, atol=0.01)
    assert (dist.mode() == 4).all()


def test_choices_that_an_agent_does_not_have_count_for_nothing() -> None:
    """Agent 1 has the first choice only, with 2 of its 3 options."""
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]]).expand(400, 2, 5)
    logits = torch.randn(2, 5, generator=rng()).expand(400, 2, 5)
    nothing = torch.zeros(2, 0)
    dist = ChoiceHead((3, 2)).distribution(logits, nothing, valid, nothing, mask)
    actions = dist.sample(rng())
    alone = torch.distributions.Categorical(logits=logits[:, 1, :2])
    torch.testing.assert_close(dist.log_prob(actions)[:, 1], alone.log_prob(actions[:, 1, 0]))
    torch.testing.assert_close(dist.entropy()[:, 1], alone.entropy())
    assert actions[:, 1, 0].unique().tolist() == [0.0, 1.0]
    assert (actions[:, 1, 1] == 0).all()
    assert actions[:, 0, 1].unique().tolist() == [0.0, 1.0]


def test_padded_columns_count_for_nothing() -> None:
    valid = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    outputs = torch.randn(3, 2, 4, generator=rng())

    def make(kind: str, columns: slice, valid: Tensor) -> Distribution:
        size = valid.shape[-1]
        both = torch.cat([outputs[..., :2][..., columns], outputs[..., 2:][..., columns]], dim=-1)
        given = both if kind == "beta" else both[..., :size]
        bounded = torch.ones_like(valid, dtype=torch.bool)
        return BoxHead(size, kind).distribution(given, torch.zeros(2, size), valid, bounded, torch.zeros(2, 0))

    for kind in ("gaussian", "tanh_gaussian", "beta"):
        dist, narrow = make(kind, slice(0, 2), valid), make(kind, slice(0, 1), torch.ones(2, 1))
        actions = torch.full((3, 2, 2), 0.3)
        shifted = actions + 5 * (1 - valid)
        assert torch.equal(dist.log_prob(actions), dist.log_prob(shifted))
        torch.testing.assert_close(dist.log_prob(actions)[:, 1], narrow.log_prob(actions[..., :1])[:, 1])
        torch.testing.assert_close(dist.entropy()[:, 1], narrow.entropy()[:, 1])
        assert (dist.sample(rng())[:, 1, 1] == 0).all()


def test_a_product_adds_log_probabilities_and_entropies() -> None:
    parts: list[Distribution] = [single(0.0, 0.0), single(1.0, 0.0, TanhGaussian)]
    parts += [Beta(torch.tensor([[0.5, 1.0]]), torch.ones(1, 1))]
    parts += [Categorical(torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1, 2, dtype=torch.bool), torch.ones(1, 1))]
    product = ProductDistribution(parts, [1, 1, 1, 1])
    actions = torch.tensor([[0.3, -0.2, 0.7, 1.0]])
    want = sum(part.log_prob(actions[..., i : i + 1]) for i, part in enumerate(parts))
    torch.testing.assert_close(product.log_prob(actions), want)
    torch.testing.assert_close(product.entropy(), sum(part.entropy() for part in parts))
    assert product.to_env(torch.tensor([[3.0, 0.0, 0.75, 1.0]])).tolist() == [[1.0, 0.0, 0.5, 1.0]]
    assert product.sample(rng()).shape == product.mode().shape == (1, 4)


def test_sampling_follows_its_generator_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    for dist in (single(0.0, 0.0), beta(), categorical()[0]):
        assert torch.equal(dist.sample(rng()), dist.sample(rng()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "end"), [("gaussian", -1.0), ("tanh_gaussian", -0.95), ("beta", -0.95)]
)  # those that cannot reach an end start beside it
def test_a_box_starts_at_a_given_action(kind: str, end: float) -> None:
    action, ones, nothing = torch.tensor([[0.5, -1.0, 0.0]]), torch.ones(1, 3), torch.ones(1, 0)
    head = BoxHead(3, kind)
    outputs = head.outputs_for(action)
    assert outputs.shape == (1, head.output_columns)
    dist = head.distribution(outputs, torch.zeros(1, head.std_columns), ones, ones.bool(), nothing)
    torch.testing.assert_close(dist.to_env(dist.mode()), torch.tensor([[0.5, end, 0.0]]))
    if isinstance(dist, Beta):
        assert (dist.alpha > 1).all()
        assert (dist.beta > 1).all()


def test_a_choice_starts_at_a_given_option_with_two_thirds() -> None:
    head, nothing = ChoiceHead((2, 5, 1)), torch.zeros(1, 0)
    logits = head.outputs_for(torch.tensor([[1.0, 3.0, 0.0]]))
    everything: Any = torch.ones(1, 8, dtype=torch.bool)
    dist = head.distribution(logits, nothing, torch.ones(1, 3), nothing, everything)
    assert dist.mode().tolist()[0] == [1, 3, 0]
    probability = torch.stack([dist.log_prob(torch.tensor([[i, 3.0, 0.0]])) for i in (0.0, 1.0)]).exp()
    torch.testing.assert_close(probability, torch.tensor([[2 / 9], [4 / 9]]))


def test_log_std_is_clamped() -> None:
    assert gaussian(torch.zeros(1, 1, 2), torch.tensor([[-9.0, 9.0]])).log_std.tolist() == [[-5.0, 2.0]]
