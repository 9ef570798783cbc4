"""Stacked weights against separate modules, and the critic's input."""

import math

import pytest
import torch
from torch import nn

from mappo.networks import StackedMLP, critic_obs, critic_view
from mappo.update import clip_grad_norm_by_policy


def stacked(ids: list[int], *, activation: str = "relu") -> StackedMLP:
    body = StackedMLP([5, 16, 16, 3], torch.tensor(ids), activation=activation)
    body.initialize(output_gain=0.01, generator=torch.Generator().manual_seed(0))
    return body


def separate(body: StackedMLP, policy: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in [*body.hidden, body.output]:
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[2])
        linear.weight.data, linear.bias.data = layer.weight.data[policy].T, layer.bias.data[policy]
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("ids", [[0, 0, 0], [0, 1, 2], [1, 0, 1]])
def test_stacked_networks_equal_separate_modules(ids: list[int]) -> None:
    body = stacked(ids)
    x = torch.randn(7, 4, len(ids), 5, generator=torch.Generator().manual_seed(1))
    want = torch.stack([separate(body, policy)(x[..., a, :]) for a, policy in enumerate(ids)], dim=-2)
    torch.testing.assert_close(body(x), want)


def test_stacked_gradients_equal_separate_ones_whatever_the_other_policy_does() -> None:
    body = stacked([0, 1])
    x = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(1))
    (body(x)[:, 0].square().mean() + 1e3 * body(x)[:, 1].square().mean()).backward()
    alone = separate(body, 0)
    alone(x[:, 0]).square().mean().backward()
    assert body.output.weight.grad is not None
    weight_grad = alone[-1].weight.grad
    assert weight_grad is not None
    torch.testing.assert_close(body.output.weight.grad[0], weight_grad.T)


def test_gradient_clipping_acts_on_each_policy_by_itself() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 1, 2))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
        parameter.grad[1] *= 1e6
    norms = clip_grad_norm_by_policy(parameters, 10.0)
    torch.testing.assert_close(norms, torch.tensor([math.sqrt(5), 1e6 * math.sqrt(5)]))
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert all((grad[0] == 1).all() for grad in grads)
    clipped = torch.stack([grad[1].square().sum() for grad in grads]).sum().sqrt()
    torch.testing.assert_close(clipped, torch.tensor(10.0))


@pytest.mark.parametrize(("activation", "gain"), [("relu", math.sqrt(2)), ("tanh", 5 / 3)])
def test_initial_weights_are_orthogonal_with_the_right_gain(activation: str, gain: float) -> None:
    body = stacked([0, 1], activation=activation)
    first = body.hidden[0].weight
    assert isinstance(first, nn.Parameter)
    for policy in range(2):
        product = first[policy] @ first[policy].T
        torch.testing.assert_close(product, gain**2 * torch.eye(5), atol=1e-5, rtol=1e-5)
    assert body.output.weight.norm(dim=1).max() < 0.011
    assert not torch.equal(first[0], first[1])


def test_an_empty_batch_gives_an_empty_output() -> None:
    assert stacked([0, 0])(torch.zeros(0, 2, 5)).shape == (0, 2, 3)
    assert stacked([0, 1])(torch.zeros(0, 2, 5)).shape == (0, 2, 3)


def test_mappo_and_ippo_differ_in_the_critics_input_alone() -> None:
    obs, state = torch.ones(4, 3, 2), torch.zeros(4, 5)
    assert critic_view("ippo", team_reward=True) == "own"
    assert critic_view("mappo", team_reward=True) == "state"
    assert critic_view("mappo", team_reward=False) == "state+own"
    assert critic_view("mappo", team_reward=True, critic_input="agent") == "state+own"
    assert critic_view("mappo", team_reward=False, critic_input="state") == "state"
    assert critic_obs(obs, state, "own") is obs
    assert critic_obs(obs, state, "state").shape == (4, 1, 5)
    both = critic_obs(obs, state, "state+own")
    assert both.shape == (4, 3, 7)
    assert both[0, 0].tolist() == [0.0] * 5 + [1.0] * 2
