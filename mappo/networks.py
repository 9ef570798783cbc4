"""Actor and critic as stacked weights, and `critic_obs`: the one switch between MAPPO and IPPO.

Data flow: (normalised obs, state) -> Actor -> action distribution; -> critic_obs -> Critic -> values.
Both run over L steps at once and carry a memory, which has no columns unless `--recurrent` asks for one.
Dims: L steps, N rows, A agents, P policies, I network input, U action, K action mask, M memory.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mappo.agent_ids import EMBEDDING_WIDTH, AgentEmbedding, IdKind, id_kind
from mappo.config import TrainConfig
from mappo.distributions import LOG_STD_MAX, LOG_STD_MIN, BoxHead, ChoiceHead, ProductDistribution
from mappo.layers import StackedNet
from mappo.spaces import ActionSpec, EnvSpec

CriticView = Literal["own", "state", "state+own"]
Head = BoxHead | ChoiceHead


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


class Actor(nn.Module):
    """Own observation -> action distribution. The log-std is a free vector of each policy, not a network output."""

    valid: Tensor
    bounded: Tensor
    choice_valid: Tensor

    def __init__(
        self,
        body: StackedNet,
        heads: Sequence[Head],
        actions: ActionSpec,
        *,
        log_std_init: float,
        embedding: AgentEmbedding | None = None,
    ) -> None:
        """The output of `body` holds the columns of all heads side by side; its input ends with the embedding's."""
        super().__init__()
        self.body = body
        self.embedding = embedding
        self.heads = tuple(heads)
        self.log_std = nn.Parameter(torch.full((body.num_policies, sum(h.std_columns for h in heads)), log_std_init))
        self.register_buffer("valid", actions.valid.float(), persistent=False)  # (A, U)
        self.register_buffer("bounded", actions.bounded, persistent=False)  # (A, U)
        self.register_buffer("choice_valid", actions.choice_valid, persistent=False)  # (A, K)

    def forward(
        self, obs: Tensor, action_mask: Tensor, memory: Tensor, starts: Tensor, agent: int | None = None
    ) -> tuple[ProductDistribution, Tensor]:
        """Obs (L, N, A, I), action_mask (L, N, A, K), memory and starts as `StackedNet`; distribution and memories.

        With `agent`, everything is given for that one only, A = 1.
        """
        rows = slice(None) if agent is None else slice(agent, agent + 1)
        if self.embedding is not None:  # never with `agent`, whose policy is its own
            obs = self.embedding(obs)
        outputs, memories = self.body(obs, memory, starts, agent)
        outputs = outputs.to(self.log_std.dtype)  # autocast makes it bfloat16
        outputs = outputs.split([head.output_columns for head in self.heads], dim=-1)
        log_std = self.log_std[self.body.policy_ids[rows]].split([head.std_columns for head in self.heads], dim=-1)
        masks = (action_mask & self.choice_valid[rows]).split([head.mask_columns for head in self.heads], dim=-1)
        columns = [head.columns for head in self.heads]
        valid, bounded = (facts[rows].split(columns, dim=-1) for facts in (self.valid, self.bounded))
        pieces = zip(self.heads, outputs, log_std, valid, bounded, masks, strict=True)
        return ProductDistribution([head.distribution(*piece) for head, *piece in pieces], columns), memories

    def mean_std(self) -> Tensor | None:
        """Mean standard deviation of the Gaussian action columns that agents have; None if there are none."""
        columns = self.log_std.shape[-1]
        if not columns:
            return None
        valid = self.valid[:, :columns]
        std = self.log_std.detach().clamp(LOG_STD_MIN, LOG_STD_MAX).exp()[self.body.policy_ids]
        return (std * valid).sum() / valid.sum()

    def start_at(self, actions: Tensor) -> None:
        """Set the output bias such that the initial mean is `actions` (A, U).

        Agents that share a policy start at their average, over those that have the column.
        """
        columns, ids = [head.columns for head in self.heads], self.body.policy_ids
        pieces = zip(self.heads, actions.split(columns, dim=-1), strict=True)
        outputs = torch.cat([head.outputs_for(piece) for head, piece in pieces], dim=-1)  # (A, output columns)
        pieces = zip(self.heads, self.valid.split(columns, dim=-1), strict=True)
        weights = torch.cat([head.spread(piece) for head, piece in pieces], dim=-1)
        zeros = outputs.new_zeros(self.body.num_policies, outputs.shape[-1])
        total, count = zeros.index_add(0, ids, outputs * weights), zeros.index_add(0, ids, weights)
        self.body.output.bias.data.copy_(total / count.clamp(min=1))


class Critic(nn.Module):
    """Values in normalised units, V of them for each copy: one for the team or one for each agent.

    Its R rows a copy are what `critic_obs` returns: 1, or one for each agent.
    """

    value_ids: Tensor

    def __init__(self, body: StackedNet, view: CriticView, embedding: AgentEmbedding | None = None) -> None:
        """`body` maps what `critic_obs` returns to one value a row, or to all A values from the state's single row.

        With an embedding of the agents, its columns stand behind those of a row.
        """
        super().__init__()
        self.body = body
        self.embedding = embedding
        self.view: CriticView = view
        self.num_rows = len(body.policy_ids)
        values_per_row = body.output.bias.shape[-1]
        self.num_values = self.num_rows * values_per_row
        # Which critic network each value column belongs to: losses are averaged by network.
        self.register_buffer("value_ids", body.policy_ids.repeat_interleave(values_per_row), persistent=False)

    def forward(self, obs: Tensor, state: Tensor, memory: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Obs (L, N, A, I), state (L, N, S), memory (N, R, M), starts (L, N, A) -> values (L, N, V), memories."""
        if self.view == "state":
            starts = starts.all(-1, keepdim=True)  # of the episode
        rows = critic_obs(obs, state, self.view)
        values, memories = self.body(rows if self.embedding is None else self.embedding(rows), memory, starts)
        return values.flatten(-2).to(obs.dtype), memories


def build_actor(spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> Actor:
    """Orthogonal actor for all agents; the output gain of 0.01 makes the first policy nearly constant."""
    actions = spec.action_spec
    _check_bounds(spec, config)
    heads: list[Head] = [BoxHead(actions.box_columns, config.action_dist)] if actions.box_columns else []
    heads += [ChoiceHead(actions.choices)] if actions.choices else []
    ids = torch.tensor(policy_ids(spec, config))
    embedding = _embedding(spec, config, generator)
    width = input_width(spec, config) + (0 if embedding is None else EMBEDDING_WIDTH)
    body = _build_body(width, sum(head.output_columns for head in heads), ids, config)
    body.initialize(output_gain=0.01, generator=generator)
    return Actor(body, heads, actions, log_std_init=config.log_std_init, embedding=embedding)


def build_critic(spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> Critic:
    """Orthogonal critic: one network that values the state, or one network for each policy that values its agents."""
    team_reward = config.reward_mode != "individual"
    view = critic_view(config.algo, team_reward=team_reward, critic_input=config.critic_input)
    if view == "state" and spec.state_dim == 0:
        raise ValueError("--critic-input state needs an env with a state; this one has state_dim 0. Use agent instead")
    sees_agents = view != "state"
    embedding = _embedding(spec, config, generator) if sees_agents else None
    width = input_width(spec, config) * sees_agents + spec.state_dim * (view != "own")
    width += 0 if embedding is None else EMBEDDING_WIDTH
    ids = torch.tensor(policy_ids(spec, config) if sees_agents else (0,))
    body = _build_body(width, 1 if sees_agents or team_reward else len(spec.agents), ids, config)
    body.initialize(output_gain=1.0, generator=generator)
    return Critic(body, view, embedding)


def policy_ids(spec: EnvSpec, config: TrainConfig) -> tuple[int, ...]:
    """The one mapping agent -> policy."""
    return spec.policy_ids(config.sharing, config.policy_map)


def input_width(spec: EnvSpec, config: TrainConfig) -> int:
    """Width I of what is stored for the actor: own observation, and the agent's one-hot id if it has one."""
    return spec.obs_dim + len(spec.agents) * (agent_id(spec, config) == "one_hot")


def agent_id(spec: EnvSpec, config: TrainConfig) -> IdKind:
    """What tells agents with the same policy apart."""
    return id_kind(config.agent_id, policy_ids(spec, config))


def _embedding(spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> AgentEmbedding | None:
    if agent_id(spec, config) != "embedding":
        return None
    return AgentEmbedding(torch.tensor(policy_ids(spec, config)), generator)


def _build_body(size_in: int, size_out: int, ids: Tensor, config: TrainConfig) -> StackedNet:
    sizes = [size_in, *[config.hidden_dim] * config.num_layers, size_out]
    return StackedNet(
        sizes, ids, activation=config.activation, layer_norm=config.layer_norm, recurrent=config.recurrent
    )


def _check_bounds(spec: EnvSpec, config: TrainConfig) -> None:
    for agent, heads in zip(spec.agents, spec.action_heads, strict=True):
        if config.action_dist != "gaussian" and any(head.kind == "real" for head in heads):
            raise ValueError(
                f"--action-dist {config.action_dist} needs actions with two finite bounds, and the action space of "
                f"{agent} has some without; use --action-dist gaussian"
            )
