"""Actor and critic as a whole: the critic's input, where policies start, stacked policies against separate ones."""

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import nn

from mappo import TrainConfig
from mappo.adam import Adam
from mappo.layers import StackedNet
from mappo.networks import Actor, build_actor, build_critic, critic_obs, critic_view, input_width
from mappo.spaces import EnvSpec
from mappo.stacked_parameters import StackedParameters
from tests.toy_envs import TargetEnv
from tests.toy_tasks import RandomEnv


def test_gradient_clipping_acts_on_each_policy_by_itself() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 1, 2))]
    weights = StackedParameters(parameters)
    scale = torch.tensor([1.0, 1e6])
    weights.backward(torch.stack([(parameter.flatten(1).sum(1) * scale).sum() for parameter in parameters]).sum())
    norms = weights.clip_grad_norm(10.0)
    torch.testing.assert_close(norms, torch.tensor([math.sqrt(5), 1e6 * math.sqrt(5)]))
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert all((grad[0] == 1).all() for grad in grads)
    clipped = torch.stack([grad[1].square().sum() for grad in grads]).sum().sqrt()
    torch.testing.assert_close(clipped, torch.tensor(10.0))


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


def test_a_memory_of_the_state_is_blanked_when_the_whole_team_begins() -> None:
    """One agent that appears later does not make the critic forget the episode."""
    spec = EnvSpec.of(TargetEnv(4))
    critic = build_critic(spec, TrainConfig(recurrent="gru", hidden_dim=8), torch.Generator().manual_seed(0))
    obs, state = torch.zeros(1, 4, 3, 5), torch.randn(1, 4, 4)
    memory = torch.randn(4, 1, 8)
    starts = torch.tensor([[[False] * 3, [True, False, True], [True] * 3, [False, False, True]]])
    values, _ = critic(obs, state, memory, starts)
    on, _ = critic(obs, state, memory, torch.zeros_like(starts))
    blank, _ = critic(obs, state, 0 * memory, torch.zeros_like(starts))
    assert torch.equal(values[:, [0, 1, 3]], on[:, [0, 1, 3]])
    assert torch.equal(values[:, 2], blank[:, 2])
    assert not torch.equal(on, blank)


HETERO: list[spaces.Space[Any]] = [
    spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3))),
    spaces.MultiDiscrete([2, 5]),
    spaces.Box(-1, 1, (1,)),
]


def act(actor: Actor, spec: EnvSpec, width: int, agent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of the modes, and the entropy, on fixed inputs (3, 4, A)."""
    generator = torch.Generator().manual_seed(5)
    agents = len(spec.agents)
    obs = torch.randn(3, 4, agents, width, generator=generator)
    mask = torch.ones(3, 4, agents, spec.action_spec.mask_columns, dtype=torch.bool)
    memory = torch.randn(4, agents, actor.body.memory_width, generator=generator)
    starts = torch.rand(3, 4, agents, generator=generator) < 0.3
    whose = slice(None) if agent is None else slice(agent, agent + 1)
    given = (obs[:, :, whose], mask[:, :, whose], memory[:, whose], starts[:, :, whose])
    distribution, _ = actor(*given, agent)
    return distribution.log_prob(distribution.mode()), distribution.entropy()


@pytest.mark.parametrize("dist", ["gaussian", "tanh_gaussian", "beta"])
@pytest.mark.parametrize("recurrent", ["none", "lstm"])
@pytest.mark.parametrize("sharing", ["shared", "independent"])
def test_one_agents_distribution_can_be_computed_alone(dist: Any, recurrent: Any, sharing: Any) -> None:
    spec = EnvSpec.of(RandomEnv(HETERO))
    config = TrainConfig(action_dist=dist, recurrent=recurrent, policy_sharing=sharing, hidden_dim=8)
    actor = build_actor(spec, config, torch.Generator().manual_seed(0))
    actor.log_std.data += torch.randn(actor.log_std.shape, generator=torch.Generator().manual_seed(1))
    together = act(actor, spec, input_width(spec, config))
    for agent in range(3):
        alone = act(actor, spec, input_width(spec, config), agent)
        for one, all_of_them in zip(alone, together, strict=True):
            torch.testing.assert_close(one[..., 0], all_of_them[..., agent])


@pytest.mark.parametrize("recurrent", ["none", "gru"])
def test_stacked_policies_stay_separate_policies_through_adam(recurrent: Any) -> None:
    """Three Adam steps of stacked independent actors equal those of three actors with one policy each."""
    spec = EnvSpec.of(RandomEnv(HETERO))
    config = TrainConfig(policy_sharing="independent", recurrent=recurrent, hidden_dim=8, layer_norm=True)
    stacked = build_actor(spec, config, torch.Generator().manual_seed(0))
    width, outputs = input_width(spec, config), stacked.body.output.bias.shape[-1]
    one_policy = torch.zeros(3, dtype=torch.long)

    def train(actor: Actor, weights: torch.Tensor) -> None:
        stacked = StackedParameters(actor.parameters())
        optimizer = Adam(stacked.rows())
        for _ in range(3):
            stacked.grad.zero_()
            log_prob, entropy = act(actor, spec, width)
            stacked.backward(((log_prob + entropy) * weights).sum())
            stacked.clip_grad_norm(0.5)
            optimizer.step(1e-3)

    alone = []
    for agent in range(3):
        body = StackedNet([width, 8, 8, outputs], one_policy, activation="relu", layer_norm=True, recurrent=recurrent)
        one = Actor(body, stacked.heads, spec.action_spec, log_std_init=config.log_std_init)
        for mine, theirs in zip(one.parameters(), stacked.parameters(), strict=True):
            mine.data = theirs.data[agent : agent + 1].clone()
        train(one, torch.nn.functional.one_hot(torch.tensor(agent), 3))
        alone.append(one)
    before = [parameter.detach().clone() for parameter in stacked.parameters()]
    train(stacked, torch.tensor([1.0, 1.0, 1.0]))
    assert not all(torch.equal(a, b) for a, b in zip(before, stacked.parameters(), strict=True))
    for agent, one in enumerate(alone):
        for mine, theirs in zip(one.parameters(), stacked.parameters(), strict=True):
            torch.testing.assert_close(mine[0], theirs[agent], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sharing", ["independent", "shared"])
def test_policies_start_at_the_given_actions(sharing: Any) -> None:
    """Agents that share a policy and want the same do too, whatever columns each of them has."""
    spec = EnvSpec.of(RandomEnv(HETERO))
    idle = torch.tensor([[0.5, -0.5, 1.0, 0.0], [0.0, 0.0, 1.0, 4.0], [0.5, 0.0, 0.0, 0.0]])
    for dist in ("gaussian", "tanh_gaussian", "beta"):
        config = TrainConfig(policy_sharing=sharing, action_dist=dist, hidden_dim=8)
        actor = build_actor(spec, config, torch.Generator().manual_seed(0))
        actor.start_at(idle)
        everything = torch.ones(1, 3, spec.action_spec.mask_columns, dtype=torch.bool)
        starts = torch.zeros(1, 3, dtype=torch.bool)
        inputs = torch.zeros(1, 3, input_width(spec, config))
        distribution, _ = actor(inputs, everything, torch.zeros(1, 3, 0), starts)
        mode = distribution.to_env(distribution.mode())[0]
        real = spec.action_spec.valid
        torch.testing.assert_close(mode[real], idle[real])
