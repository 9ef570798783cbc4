"""PPO's losses by hand."""

import math

import torch

from mappo.losses import clipped_policy_loss, entropy_bonus, explained_variance, policy_weights, value_loss


def test_policy_loss_by_hand() -> None:
    """Ratios 2, 0.5, 1; clip 0.2. min(2, 1.2), min(-0.5, -0.8), 3 -> mean of 1.2, -0.8, 3."""
    log_prob = torch.tensor([[2.0], [0.5], [1.0]]).log()
    advantages = torch.tensor([[1.0], [-1.0], [3.0]])
    weights = torch.full((3, 1), 1 / 3)
    out = clipped_policy_loss(log_prob, torch.zeros(3, 1), advantages, weights, clip=0.2)
    torch.testing.assert_close(out.loss, torch.tensor(-(1.2 - 0.8 + 3) / 3))
    torch.testing.assert_close(out.clip_fraction, torch.tensor(2 / 3))
    kl = ((2 - 1 - math.log(2)) + (0.5 - 1 + math.log(2)) + 0) / 3
    torch.testing.assert_close(out.approx_kl, torch.tensor(kl))


def test_a_huge_log_ratio_stays_finite() -> None:
    out = clipped_policy_loss(torch.tensor([[900.0]]), torch.zeros(1, 1), -torch.ones(1, 1), torch.ones(1, 1), clip=0.2)
    assert math.isfinite(out.loss)


def test_value_loss_is_huber_by_hand() -> None:
    values, returns = torch.tensor([[0.0], [0.0]]), torch.tensor([[2.0], [30.0]])
    weights = torch.full((2, 1), 0.5)
    loss = value_loss(values, values, returns, weights, huber_delta=10.0, clip=None)
    torch.testing.assert_close(loss, torch.tensor((2**2 / 2 + 10 * (30 - 5)) / 2))


def test_value_clipping_takes_the_larger_loss() -> None:
    values, old, returns = torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
    loss = value_loss(values, old, returns, torch.ones(1, 1), huber_delta=10.0, clip=0.2)
    torch.testing.assert_close(loss, torch.tensor(0.8**2 / 2))


def test_weights_average_each_policy_over_its_living() -> None:
    alive = torch.tensor([[True, True, False], [True, False, True]])
    weights = policy_weights(alive, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 1 / 3, 0.0], [1 / 3, 0.0, 1.0]]))


def test_weights_sum_to_1_for_each_policy_whatever_the_leading_dims() -> None:
    alive = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0)) > 0.4
    ids = torch.tensor([1, 0, 1])
    weights = policy_weights(alive, ids, 2)
    assert weights.shape == (4, 5, 3)
    torch.testing.assert_close(weights.flatten(0, 1), policy_weights(alive.flatten(0, 1), ids, 2))
    torch.testing.assert_close(weights[..., 1].sum(), torch.tensor(1.0))
    torch.testing.assert_close(weights[..., [0, 2]].sum(), torch.tensor(1.0))
    assert (weights[~alive] == 0).all()


def test_a_policy_without_living_agents_weighs_nothing() -> None:
    assert policy_weights(torch.zeros(2, 1, dtype=torch.bool), torch.tensor([0]), 1).sum() == 0


def test_the_entropy_bonus_is_the_weighted_mean() -> None:
    weights = torch.tensor([[0.5, 1.0], [0.5, 0.0]])
    assert entropy_bonus(torch.tensor([[1.0, 4.0], [3.0, 9.0]]), weights) == 6


def test_explained_variance_is_1_for_perfect_and_0_for_constant_values() -> None:
    returns = torch.arange(6.0).view(3, 2)
    alive = torch.ones(3, 2, dtype=torch.bool)
    assert explained_variance(returns + 5, returns, alive) == 1
    assert explained_variance(0 * returns, returns, alive) == 0
    assert explained_variance(returns, torch.ones(3, 2), alive) == 0
