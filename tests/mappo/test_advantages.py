"""GAE, flags, rewards and advantage statistics."""

import pytest
import torch
from torch import Tensor

from mappo.advantages import (
    Flags,
    agent_flags,
    centre_groups,
    episodes_ended,
    gae,
    next_values,
    normalize_advantages,
    shape_rewards,
    team_flags,
)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def flags(*values: bool) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


def test_gae_bootstraps_at_a_time_limit_but_not_at_a_terminal_state() -> None:
    one, yes, no = torch.ones(1, 1, 1), flags(True), flags(False)
    terminal, _ = gae(one, 0 * one, 2 * one, Flags(yes, no), gamma=0.5, gae_lambda=1.0)
    timeout, _ = gae(one, 0 * one, 2 * one, Flags(no, yes), gamma=0.5, gae_lambda=1.0)
    assert (terminal.item(), timeout.item()) == (1.0, 2.0)


def test_gae_by_hand() -> None:
    """Three steps, the second terminal; gamma 0.5, lambda 0.5."""
    ends = Flags(flags(False, True, False), flags(False, False, False))
    advantages, returns = gae(column(1, 2, 3), column(4, 2, 8), column(2, 9, 4), ends, gamma=0.5, gae_lambda=0.5)
    # delta = 1 + .5*2 - 4, 2 - 2, 3 + .5*4 - 8 = -2, 0, -3; A_0 = -2 + .25 * 0
    torch.testing.assert_close(advantages, column(-2, 0, -3))
    torch.testing.assert_close(returns, column(2, 2, 5))


def test_gae_equals_the_double_sum_with_mixed_endings() -> None:
    rng = torch.Generator().manual_seed(0)
    T, B, A, gamma, lam = 12, 5, 3, 0.9, 0.8
    rewards, values, following = (torch.randn(T, B, A, generator=rng, dtype=torch.float64) for _ in range(3))
    kind = torch.rand(T, B, A, generator=rng)
    ends = Flags(kind < 0.15, (kind > 0.15) & (kind < 0.3))
    got, _ = gae(rewards, values, following, ends, gamma=gamma, gae_lambda=lam)
    want = torch.zeros_like(got)
    for t in range(T):
        for b in range(B):
            for a in range(A):
                for k in range(t, T):
                    bootstrap = 0.0 if ends.terminated[k, b, a] else gamma * following[k, b, a]
                    delta = rewards[k, b, a] + bootstrap - values[k, b, a]
                    want[t, b, a] += (gamma * lam) ** (k - t) * delta
                    if ends.terminated[k, b, a] or ends.truncated[k, b, a]:
                        break
    torch.testing.assert_close(got, want)


def test_lambda_1_telescopes_to_the_monte_carlo_return() -> None:
    rng = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(6, 2, 1, generator=rng), torch.randn(7, 2, 1, generator=rng)
    ends = torch.zeros(6, 2, 1, dtype=torch.bool)
    ends[-1] = True
    _, returns = gae(rewards, values[:-1], values[1:], Flags(ends, ~ends & ends), gamma=0.9, gae_lambda=1.0)
    monte_carlo = sum(0.9**t * rewards[t] for t in range(6))
    torch.testing.assert_close(returns[0], monte_carlo)


def test_next_values_come_from_final_observations_where_truncated() -> None:
    values = torch.arange(8.0).view(4, 1, 2)
    truncated = torch.tensor([[False, False], [False, True], [False, False]]).view(3, 1, 2)
    rows = (torch.tensor([1]), torch.tensor([0]))
    following = next_values(values, truncated, rows, torch.tensor([[40.0, 50.0]]))
    assert following[:, 0].tolist() == [[2, 3], [4, 50], [6, 7]], "who goes on keeps the row that follows"


def test_the_team_goes_on_until_its_last_agent_ends() -> None:
    alive = torch.tensor([[True, True, False]])
    none = torch.zeros(1, 3, dtype=torch.bool)

    def flags(terminated: torch.Tensor, truncated: torch.Tensor, acted: torch.Tensor) -> Flags:
        return team_flags(terminated, truncated, acted, episodes_ended(terminated, truncated, acted))

    one_dies = flags(torch.tensor([[True, False, False]]), none, alive)
    assert not one_dies.terminated.any()
    assert not one_dies.truncated.any()
    all_die = flags(torch.tensor([[True, True, False]]), none, alive)
    assert all_die.terminated.all()
    last_is_cut = flags(torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]]), alive)
    assert last_is_cut.truncated.all()
    assert not last_is_cut.terminated.any()
    goes_on = team_flags(alive, none, alive, torch.tensor([False]))  # others take over: the env says so
    assert not goes_on.terminated.any()


def test_an_agent_with_both_flags_is_terminal() -> None:
    yes = torch.ones(1, 1, dtype=torch.bool)
    assert agent_flags(yes, yes) == Flags(yes, ~yes)


@pytest.mark.parametrize(("mode", "want"), [("mean", [[2.0]]), ("sum", [[6.0]]), ("individual", [[1.0, 2.0, 3.0]])])
def test_reward_modes(mode: str, want: list[list[float]]) -> None:
    assert shape_rewards(torch.tensor([[1.0, 2.0, 3.0]]), mode).tolist() == want


@pytest.mark.parametrize("mode", ["batch", "agent"])
def test_advantages_have_mean_0_and_std_1_over_the_living(mode: str) -> None:
    rng = torch.Generator().manual_seed(2)
    advantages = torch.randn(20, 8, 2, generator=rng) * torch.tensor([1.0, 50.0]) + 7
    alive = torch.rand(20, 8, 2, generator=rng) > 0.3
    out = normalize_advantages(advantages, alive, mode)
    groups = [out[alive]] if mode == "batch" else [out[..., a][alive[..., a]] for a in range(2)]
    for group in groups:
        assert abs(group.mean().item()) < 1e-4
        assert abs(group.std(correction=0).item() - 1) < 1e-4
    changed = torch.where(alive, advantages, 1e6)
    torch.testing.assert_close(normalize_advantages(changed, alive, mode)[alive], out[alive])


def test_no_advantage_norm_leaves_them_alone() -> None:
    advantages = torch.ones(2, 2, 2)
    assert normalize_advantages(advantages, advantages.bool(), "none") is advantages


def test_groups_are_centred_on_their_living_copies() -> None:
    """Two groups of two copies, one step, two agents; agent 1 of copy 3 is dead."""
    advantages = torch.tensor([[1.0, 10.0], [3.0, 30.0], [5.0, 7.0], [9.0, 100.0]]).unsqueeze(0)
    alive = torch.tensor([[True, True], [True, True], [True, True], [True, False]]).unsqueeze(0)
    centred = centre_groups(advantages, alive, 2)
    assert centred[alive].tolist() == [-1.0, -10.0, 1.0, 10.0, -2.0, 0.0, 2.0]
    assert centre_groups(advantages, alive, 1) is advantages


def test_centring_groups_leaves_the_policy_gradient_unbiased_up_to_its_scale() -> None:
    """Expected score-function gradient of a Bernoulli policy, by enumeration of all joint actions of a group."""
    p, reward = 0.3, (2.0, 5.0)  # probability of action 1; reward of each action
    plain = centred = 0.0
    for joint in range(2**3):
        actions = [joint >> k & 1 for k in range(3)]
        probability = torch.tensor([p if a else 1 - p for a in actions]).prod()
        advantages = torch.tensor([reward[a] + 4.0 for a in actions]).view(1, 3, 1)
        score = torch.tensor([(1 / p) if a else -1 / (1 - p) for a in actions]).view(1, 3, 1)
        plain += probability * (score * advantages).mean()
        centred += probability * (score * centre_groups(advantages, torch.ones(1, 3, 1).bool(), 3)).mean()
    torch.testing.assert_close(centred, plain * 2 / 3)
