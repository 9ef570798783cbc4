"""What is deployed: the observation normaliser and the actor. It sees own observations, never the global state.

Data flow: obs -> observe (normalise, append agent id) -> Actor -> action distribution -> act. The trainer trains it in
place; `load_policy` brings it back from any checkpoint or policy file.
"""

import os
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from mappo.checkpoint import check_fits, read_file, unpacking, write_file
from mappo.config import TrainConfig, flag
from mappo.networks import agent_id, build_actor, policy_ids
from mappo.normalization import RunningMeanStd
from mappo.spaces import EnvSpec

NETWORK_SETTINGS = ("action_dist", "hidden_dim", "num_layers", "activation", "normalize_obs", "layer_norm", "recurrent")


class Policy(nn.Module):
    """Decentralised policies of all agents. Dims: B copies, A agents, O own obs, U action, K action mask, I input."""

    obs_valid: Tensor
    agent_ids: Tensor

    def __init__(self, spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> None:
        """`generator` draws the initial weights."""
        super().__init__()
        self.spec = spec
        self.config = config
        ids = torch.tensor(policy_ids(spec, config))
        self.obs_norm = RunningMeanStd(spec.obs_dim, ids, enabled=config.normalize_obs)
        self.actor = build_actor(spec, config, generator)
        agents = len(spec.agents)
        self.register_buffer("obs_valid", spec.obs_valid, persistent=False)  # (A, O)
        one_hot = torch.eye(agents) if agent_id(spec, config) == "one_hot" else torch.zeros(agents, 0)
        self.register_buffer("agent_ids", one_hot, persistent=False)  # (A, A), or no columns (agent_ids.py)
        self._memory: Tensor | None = None  # (B, A, M) of `act`

    @property
    def device(self) -> torch.device:
        """Where its weights live."""
        return self.agent_ids.device

    def observe(self, obs: Tensor) -> Tensor:
        """Raw obs (..., A, O) -> network input (..., A, I): normalised, padding set to 0, one-hot id appended."""
        normalised = self.obs_norm(obs) * self.obs_valid
        return torch.cat([normalised, self.agent_ids.expand(*obs.shape[:-2], -1, -1)], dim=-1)

    def blank_memory(self, num_envs: int) -> Tensor:
        """(B, A, M) zeros; M is 0 unless the policy is recurrent."""
        return torch.zeros(num_envs, len(self.spec.agents), self.actor.body.memory_width, device=self.device)

    def recall(self, memory: Tensor | None, num_envs: int) -> Tensor:
        """The memory (B, A, M) to act with, blank if there is none; `num_envs` must be that of the last step."""
        if memory is None:
            return self.blank_memory(num_envs)
        if len(memory) != num_envs:
            raise ValueError(f"act: got {num_envs} copies after {len(memory)}; call reset() before other episodes")
        return memory

    def choose(
        self,
        obs: Tensor,
        action_mask: Tensor | None,
        memory: Tensor,
        deterministic: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """As `act`, with the memory (B, A, M) before and after the step in the caller's hands."""
        obs = obs.to(self.device, torch.float32)
        shape = (*obs.shape[:-1], self.spec.action_spec.mask_columns)
        if action_mask is None:
            action_mask = obs.new_ones(shape, dtype=torch.bool)
        if action_mask.shape != shape:
            raise ValueError(f"act: action_mask must be {shape}; got {tuple(action_mask.shape)}")
        starts = torch.zeros(obs.shape[:-1], dtype=torch.bool, device=self.device)
        distribution, memory = self.actor(self.observe(obs), action_mask.to(self.device).bool(), memory, starts)
        actions = distribution.mode() if deterministic else distribution.sample(generator)
        return distribution.to_env(actions), memory

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        action_mask: Tensor | None = None,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Raw obs (B, A, O) -> actions (B, A, U) as `VecEnv.step` takes them, on the policy's device.

        A recurrent policy remembers what it saw since `reset`. Without a generator, samples use torch's default one.

        Raises:
            ValueError: obs or action_mask of a wrong shape, or another number of copies than those remembered.
        """
        agents, width = len(self.spec.agents), self.spec.obs_dim
        if obs.dim() != 3 or obs.shape[1:] != (agents, width):
            raise ValueError(f"act: obs must be (B, {agents}, {width}); got {tuple(obs.shape)}")
        memory = self.recall(self._memory, len(obs))
        actions, memory = self.choose(obs, action_mask, memory, deterministic, generator)
        self._memory = memory if memory.shape[-1] else None
        return actions

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the past where mask (B,) or (B, A) is True, or all of it; only recurrent policies have one."""
        if mask is None:
            self._memory = None
        elif self._memory is not None:
            mask = mask.to(self.device).view(len(mask), -1, 1)
            self._memory = self._memory.masked_fill(mask, 0.0)

    def for_agent(self, name: str) -> "AgentPolicy":
        """One agent's policy on its own, which needs only that agent's observation."""
        if name not in self.spec.agents:
            raise ValueError(f"unknown agent {name!r}; the agents are {', '.join(self.spec.agents)}")
        return AgentPolicy(self, self.spec.agents.index(name))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file for `load_policy`."""
        write_file({"policy": self.payload()}, path)

    def start_from(self, path: str | os.PathLike[str]) -> None:
        """Take over weights and normaliser of a policy that was trained elsewhere for the same spaces and networks.

        The state may differ: only critics see it.
        """
        other = load_policy(path, self.device)
        check_fits(other.spec, self.spec, path, ignoring=("state_dim", "state_names"))
        for name in NETWORK_SETTINGS:
            mine, theirs = getattr(self.config, name), getattr(other.config, name)
            if mine != theirs:
                raise ValueError(f"{flag(name)} {mine} must be that of the policy in {path}, {theirs}")
        mine, theirs = agent_id(self.spec, self.config), agent_id(other.spec, other.config)
        if mine != theirs:
            raise ValueError(f"--agent-id {self.config.agent_id} gives {mine} ids, the policy in {path} has {theirs}")
        mine, theirs = policy_ids(self.spec, self.config), policy_ids(other.spec, other.config)
        if mine != theirs:
            setting = "--policy-map" if self.config.policy_map else f"--policy-sharing {self.config.policy_sharing}"
            raise ValueError(f"{setting} gives the agents policies {mine}; those of {path} are {theirs}, use the same")
        self.load_state_dict(other.state_dict())

    def payload(self) -> dict[str, Any]:
        """Everything that rebuilds this policy, as tensors and plain values."""
        return {"spec": self.spec.to_dict(), "config": self.config.to_dict(), "weights": self.state_dict()}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Inverse of `payload`."""
        spec, config = EnvSpec.from_dict(payload["spec"]), TrainConfig.from_dict(payload["config"])
        policy = cls(spec, config, torch.Generator().manual_seed(config.seed))
        policy.load_state_dict(payload["weights"])
        return policy


class AgentPolicy:
    """The policy of one agent, run from its own observation alone."""

    def __init__(self, policy: Policy, index: int) -> None:
        """A view: it follows the weights of `policy`, but has a memory of its own."""
        self.policy = policy
        self.index = index
        self._memory: Tensor | None = None  # (B, A, M), of which only the agent's row counts

    def reset(self) -> None:
        """Forget the past."""
        self._memory = None

    def act(self, own_obs: Tensor, action_mask: Tensor | None = None, deterministic: bool = True) -> Tensor:
        """(O,) or (B, O) raw observation -> (U,) or (B, U): the agent's own columns, in the order of its space.

        action_mask, (choices,) or (B, choices) bool, covers the agent's own choices.
        """
        spec, agent = self.policy.spec, self.index
        width = spec.obs_widths[agent]
        if own_obs.shape[-1] not in (width, spec.obs_dim):
            raise ValueError(f"{spec.agents[agent]} observes {width} columns; got {tuple(own_obs.shape)}")
        rows = own_obs.reshape(-1, own_obs.shape[-1])  # (B, O)
        obs = self._place(functional.pad(rows, (0, spec.obs_dim - rows.shape[-1])))
        masks = None if action_mask is None else self._place(self._spread_mask(action_mask.reshape(len(rows), -1)))
        memory = self.policy.recall(self._memory, len(rows))
        actions, memory = self.policy.choose(obs, masks, memory, deterministic, None)
        self._memory = memory if memory.shape[-1] else None
        own = actions[:, agent, spec.action_spec.columns_of(agent)]
        return own.reshape(*own_obs.shape[:-1], -1)

    def _spread_mask(self, own: Tensor) -> Tensor:
        """(B, the agent's own choices) -> (B, K)."""
        columns = self.policy.spec.action_spec.mask_columns_of(self.index)
        if own.shape[-1] != len(columns):
            name = self.policy.spec.agents[self.index]
            raise ValueError(f"act: the action mask of {name} has {len(columns)} columns; got {own.shape[-1]}")
        mask = own.new_ones(len(own), self.policy.spec.action_spec.mask_columns, dtype=torch.bool)
        mask[:, columns] = own.bool()
        return mask

    def _place(self, own: Tensor) -> Tensor:
        """(B, C) -> (B, A, C): the other agents' rows are blank, and no agent's output depends on another's row."""
        rows = own.new_ones if own.dtype == torch.bool else own.new_zeros
        everyone = rows(len(own), len(self.policy.spec.agents), own.shape[-1])
        everyone[:, self.index] = own
        return everyone


def load_policy(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Policy:
    """Load the policy from a trainer's checkpoint or from a file that `Policy.save` wrote."""
    content = read_file(path, device)
    if "policy" not in content:
        raise ValueError(f"{path} holds no policy; give a checkpoint of a run or a file that Policy.save wrote")
    with unpacking(path):
        return Policy.from_payload(content["policy"]).to(device).eval()
