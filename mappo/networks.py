"""Actor and critic as stacked weights, and `critic_obs`: the one switch between MAPPO and IPPO.

Data flow: (normalised obs, state) -> Actor -> action distribution; -> critic_obs -> Critic -> values.
All P policies live in one tensor (P, in, out); a mapping agent -> policy id picks each agent's row, and one batched
product serves all agents. Dims: N rows (any leading dims), A agents, P policies, I network input, H hidden.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mappo.config import TrainConfig
from mappo.distributions import BoxHead, ProductDistribution
from mappo.spaces import EnvSpec

CriticView = Literal["own", "state", "state+own"]
HIDDEN_GAIN = {"relu": math.sqrt(2), "tanh": 5 / 3}


def critic_view(algo: str, *, team_reward: bool, critic_input: str = "auto") -> CriticView:
    """Which rows the critic sees. MAPPO with a shared reward needs one value per copy, else one per agent."""
    if algo == "ippo":
        return "own"
    per_agent = critic_input == "agent" or (critic_input == "auto" and not team_reward)
    return "state+own" if per_agent else "state"


def critic_obs(obs: Tensor, state: Tensor, view: CriticView) -> Tensor:
    """(..., A, I) and (..., S) -> (..., A, I) own, (..., 1, S) state, or (..., A, S + I) both.

    IPPO and MAPPO differ here and nowhere else. `obs` is what the actor sees, agent id included: agents with different
    rewards need different values of one state.
    """
    if view == "own":
        return obs
    state = state.unsqueeze(-2)
    if view == "state":
        return state
    return torch.cat([state.expand(*obs.shape[:-1], -1), obs], dim=-1)


class StackedLinear(nn.Module):
    """P linear layers with weights (P, in, out) and biases (P, out)."""

    def __init__(self, num_policies: int, size_in: int, size_out: int) -> None:
        """Weights start orthogonal once `initialize` is called."""
        super().__init__()
        self.num_policies = num_policies
        self.weight = nn.Parameter(torch.zeros(num_policies, size_in, size_out))
        self.bias = nn.Parameter(torch.zeros(num_policies, size_out))

    def initialize(self, gain: float, generator: torch.Generator) -> None:
        """Orthogonal weights of each policy by itself, zero biases."""
        for weight in self.weight.data:
            # orthogonal_ wants (out, in), as nn.Linear stores it; the transpose is a view of ours.
            nn.init.orthogonal_(weight.T, gain=gain, generator=generator)

    def forward(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """One policy: (N, in) -> (N, out). Several: (A, N, in) -> (A, N, out), row a by policy ids[a], or a if None."""
        if self.num_policies == 1:
            return functional.linear(x, self.weight[0].T, self.bias[0])
        weight, bias = (self.weight, self.bias) if ids is None else (self.weight[ids], self.bias[ids])
        return torch.baddbmm(bias.unsqueeze(1), x, weight)


class StackedMLP(nn.Module):
    """P multi-layer perceptrons; agent a is served by policy `policy_ids[a]`."""

    policy_ids: Tensor

    def __init__(self, sizes: Sequence[int], policy_ids: Tensor, *, activation: str) -> None:
        """`sizes` are input, hidden ..., output widths; `policy_ids` is (A,)."""
        super().__init__()
        self.register_buffer("policy_ids", policy_ids.clone(), persistent=False)
        self.num_policies = int(policy_ids.max()) + 1
        self.each_its_own = torch.equal(policy_ids, torch.arange(len(policy_ids)))
        self.activate = {"relu": torch.relu, "tanh": torch.tanh}[activation]
        self.hidden_gain = HIDDEN_GAIN[activation]
        widths = list(pairwise(sizes))
        self.hidden = nn.ModuleList(StackedLinear(self.num_policies, *pair) for pair in widths[:-1])
        self.output = StackedLinear(self.num_policies, *widths[-1])

    def initialize(self, *, output_gain: float, generator: torch.Generator) -> None:
        """Orthogonal, with the gain of the activation in the hidden layers (algorithm.md 5)."""
        for layer in self.hidden:
            assert isinstance(layer, StackedLinear)
            layer.initialize(self.hidden_gain, generator)
        self.output.initialize(output_gain, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(..., A, in) -> (..., A, out)."""
        leading = x.shape[:-1]
        ids = None if self.each_its_own else self.policy_ids
        x = x.flatten(0, -2) if self.num_policies == 1 else x.flatten(0, -3).transpose(0, 1)  # (N A, in), (A, N, in)
        for layer in self.hidden:
            x = self.activate(layer(x, ids))
        x = self.output(x, ids)
        return (x if self.num_policies == 1 else x.transpose(0, 1)).reshape(*leading, x.shape[-1])


class Actor(nn.Module):
    """Own observation -> action distribution. The log-std is a free vector of each policy, not a network output."""

    valid: Tensor

    def __init__(self, body: StackedMLP, heads: Sequence[BoxHead], valid: Tensor, *, log_std_init: float) -> None:
        """The output of `body` holds the columns of all heads side by side; valid (A, U) marks real action columns."""
        super().__init__()
        self.body = body
        self.heads = tuple(heads)
        self.log_std = nn.Parameter(torch.full((body.num_policies, sum(h.std_columns for h in heads)), log_std_init))
        self.register_buffer("valid", valid.float(), persistent=False)

    def forward(self, obs: Tensor, action_mask: Tensor) -> ProductDistribution:
        """Obs (..., A, I), action_mask (..., A, K)."""
        outputs = self.body(obs).split([head.output_columns for head in self.heads], dim=-1)
        log_std = self.log_std[self.body.policy_ids].split([head.std_columns for head in self.heads], dim=-1)
        masks = action_mask.split([head.mask_columns for head in self.heads], dim=-1)
        columns = [head.columns for head in self.heads]
        valid = self.valid.split(columns, dim=-1)
        pieces = zip(self.heads, outputs, log_std, valid, masks, strict=True)
        return ProductDistribution([head.distribution(*piece) for head, *piece in pieces], columns)

    def start_at(self, actions: Tensor) -> None:
        """Set the output bias such that the initial mean is `actions` (A, U), averaged over each policy's agents."""
        pieces = zip(self.heads, actions.split([head.columns for head in self.heads], dim=-1), strict=True)
        outputs = torch.cat([head.outputs_for(piece) for head, piece in pieces], dim=-1)  # (A, output columns)
        ids = self.body.policy_ids
        total = outputs.new_zeros(self.body.num_policies, outputs.shape[-1]).index_add(0, ids, outputs)
        self.body.output.bias.data.copy_(total / torch.bincount(ids).unsqueeze(-1))


class Critic(nn.Module):
    """Values in normalised units, V of them for each copy: one for the team or one for each agent."""

    value_ids: Tensor

    def __init__(self, body: StackedMLP, view: CriticView) -> None:
        """`body` maps what `critic_obs` returns to one value a row, or to all A values from the state's single row."""
        super().__init__()
        self.body = body
        self.view: CriticView = view
        values_per_row = body.output.bias.shape[-1]
        self.num_values = len(body.policy_ids) * values_per_row
        # Which critic network each value column belongs to: losses are averaged by network.
        self.register_buffer("value_ids", body.policy_ids.repeat_interleave(values_per_row), persistent=False)

    def forward(self, obs: Tensor, state: Tensor) -> Tensor:
        """Obs (..., A, I), state (..., S) -> values (..., V)."""
        return self.body(critic_obs(obs, state, self.view)).flatten(-2)


def build_actor(spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> Actor:
    """Orthogonal actor for all agents; the output gain of 0.01 makes the first policy nearly constant."""
    heads = [BoxHead(head.columns, squash=config.action_dist == "tanh_gaussian") for head in spec.action_spec.heads]
    ids = torch.tensor(spec.policy_ids(config.policy_sharing))
    sizes = [input_width(spec, config), *hidden_sizes(config), sum(head.output_columns for head in heads)]
    body = StackedMLP(sizes, ids, activation=config.activation)
    body.initialize(output_gain=0.01, generator=generator)
    return Actor(body, heads, spec.action_spec.valid, log_std_init=config.log_std_init)


def build_critic(spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> Critic:
    """Orthogonal critic: one network that values the state, or one network for each policy that values its agents."""
    team_reward = config.reward_mode != "individual"
    view = critic_view(config.algo, team_reward=team_reward, critic_input=config.critic_input)
    if view == "state" and spec.state_dim == 0:
        raise ValueError("--critic-input state needs an env with a state; this one has state_dim 0. Use agent instead")
    sees_agents = view != "state"
    width = input_width(spec, config) * sees_agents + spec.state_dim * (view != "own")
    ids = torch.tensor(spec.policy_ids(config.policy_sharing) if sees_agents else (0,))
    values_per_row = 1 if sees_agents or team_reward else len(spec.agents)
    body = StackedMLP([width, *hidden_sizes(config), values_per_row], ids, activation=config.activation)
    body.initialize(output_gain=1.0, generator=generator)
    return Critic(body, view)


def hidden_sizes(config: TrainConfig) -> list[int]:
    """Widths of the hidden layers."""
    return [config.hidden_dim] * config.num_layers


def input_width(spec: EnvSpec, config: TrainConfig) -> int:
    """Width I of what the actor sees: own observation, and the agent's one-hot id where agents share a policy.

    The id has a column for each agent, however many there are: with A agents a rollout stores A x A of them a copy.
    """
    return spec.obs_dim + len(spec.agents) * shares_policies(spec, config)


def shares_policies(spec: EnvSpec, config: TrainConfig) -> bool:
    """Whether two agents have the same policy, which must then be told who it acts for."""
    ids = spec.policy_ids(config.policy_sharing)
    return len(set(ids)) < len(ids)
