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
from mappo.distributions import ProductDistribution
from mappo.networks import build_actor, shares_policies
from mappo.normalization import RunningMeanStd
from mappo.spaces import EnvSpec


class Policy(nn.Module):
    """Decentralised policies of all agents. Dims: B copies, A agents, O own obs, U action, K action mask, I input."""

    obs_valid: Tensor
    agent_ids: Tensor

    def __init__(self, spec: EnvSpec, config: TrainConfig, generator: torch.Generator) -> None:
        """`generator` draws the initial weights."""
        super().__init__()
        self.spec = spec
        self.config = config
        policy_ids = torch.tensor(spec.policy_ids(config.policy_sharing))
        self.obs_norm = RunningMeanStd(spec.obs_dim, policy_ids, enabled=config.normalize_obs)
        self.actor = build_actor(spec, config, generator)
        agents = len(spec.agents)
        self.register_buffer("obs_valid", spec.obs_valid, persistent=False)  # (A, O)
        ids = torch.eye(agents) if shares_policies(spec, config) else torch.zeros(agents, 0)
        self.register_buffer("agent_ids", ids, persistent=False)  # (A, A) one-hot, or no columns

    @property
    def device(self) -> torch.device:
        """Where its weights live."""
        return self.agent_ids.device

    def observe(self, obs: Tensor) -> Tensor:
        """Raw obs (..., A, O) -> network input (..., A, I): normalised, padding set to 0, agent id appended."""
        normalised = self.obs_norm(obs) * self.obs_valid
        return torch.cat([normalised, self.agent_ids.expand(*obs.shape[:-2], -1, -1)], dim=-1)

    def distribution(self, inputs: Tensor, action_mask: Tensor) -> ProductDistribution:
        """Network input (..., A, I), action_mask (..., A, K) -> one distribution for each agent."""
        return self.actor(inputs, action_mask)

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        action_mask: Tensor | None = None,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Raw obs (B, A, O) -> actions (B, A, U) in [-1, 1] on the policy's device.

        Without a generator, samples use torch's default one.
        """
        agents, width = len(self.spec.agents), self.spec.obs_dim
        if obs.dim() != 3 or obs.shape[1:] != (agents, width):
            raise ValueError(f"act: obs must be (B, {agents}, {width}); got {tuple(obs.shape)}")
        obs = obs.to(self.device, torch.float32)
        if action_mask is None:
            action_mask = obs.new_ones(*obs.shape[:-1], self.spec.action_spec.mask_columns, dtype=torch.bool)
        action_mask = action_mask.to(self.device)
        distribution = self.distribution(self.observe(obs), action_mask)
        actions = distribution.mode() if deterministic else distribution.sample(generator)
        return distribution.to_env(actions)

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the past of the copies where mask (B,) is True, or of all; feed-forward networks have none."""

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
        for name in ("policy_sharing", "action_dist", "hidden_dim", "num_layers", "activation", "normalize_obs"):
            mine, theirs = getattr(self.config, name), getattr(other.config, name)
            if mine != theirs:
                raise ValueError(f"{flag(name)} {mine} must be that of the policy in {path}, {theirs}")
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
        """A view: it follows the weights of `policy`."""
        self.policy = policy
        self.index = index

    def act(self, own_obs: Tensor, action_mask: Tensor | None = None, deterministic: bool = True) -> Tensor:
        """(O,) or (B, O) raw observation, action_mask alike -> (U,) or (B, U), the agent's real columns only."""
        spec, agent = self.policy.spec, self.index
        width = spec.obs_widths[agent]
        if own_obs.shape[-1] not in (width, spec.obs_dim):
            raise ValueError(f"{spec.agents[agent]} observes {width} columns; got {tuple(own_obs.shape)}")
        rows = own_obs.reshape(-1, own_obs.shape[-1])  # (B, O)
        obs = self._place(functional.pad(rows, (0, spec.obs_dim - rows.shape[-1])))
        masks = None if action_mask is None else self._place(action_mask.reshape(len(rows), -1))
        actions = self.policy.act(obs, masks, deterministic)[:, agent, spec.action_spec.valid[agent].to(obs.device)]
        return actions.reshape(*own_obs.shape[:-1], -1)

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
