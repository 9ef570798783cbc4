"""Gymnasium spaces -> what the networks need: heads, column layout, padded widths and masks.

Data flow: VecEnv -> EnvSpec -> policy, critic, buffer. An `EnvSpec` is plain data, so a checkpoint stores it and is
compared with the env that it is loaded for. Agents may differ: narrower ones are zero-padded and masked.
Dims: B envs, A agents, O own-observation width, S state width, U action columns, K action-mask columns.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import gymnasium
import torch
from torch import Tensor

from mappo.vec_env import Step, VecEnv


class HeadSpec(NamedTuple):
    """One independent part of an agent's action."""

    kind: str  # "box"
    size: int  # dimensions of a Box

    @property
    def columns(self) -> int:
        """Columns that it fills in the action tensor."""
        return self.size

    @property
    def mask_columns(self) -> int:
        """Columns that it fills in the action mask: one for each choice; a Box has none."""
        return 0


class ActionSpec(NamedTuple):
    """The column layout that all agents share, and which columns are real for which agent."""

    heads: tuple[HeadSpec, ...]  # each as wide as its widest agent
    valid: Tensor  # (A, U) bool: False marks padding

    @property
    def columns(self) -> int:
        """Width U of the action tensor."""
        return sum(head.columns for head in self.heads)

    @property
    def mask_columns(self) -> int:
        """Width K of the action mask."""
        return sum(head.mask_columns for head in self.heads)


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What a policy must know of its env, and what a checkpoint checks before it is used with another."""

    agents: tuple[str, ...]
    obs_widths: tuple[int, ...]
    """Own-observation width of each agent; the widest is O."""
    action_heads: tuple[tuple[HeadSpec, ...], ...]
    """Heads of each agent, in the order of the action columns."""
    state_dim: int
    obs_names: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]

    @classmethod
    def of(cls, env: VecEnv) -> Self:
        """Describe an env; a clear error where its attributes are missing or its spaces are not supported."""
        check_vec_env(env)
        if env.num_envs < 1:
            raise ValueError(f"--num-envs must be at least 1; got {env.num_envs}")
        agents = tuple(env.agents)
        heads = tuple(_action_heads(name, env.action_spaces[name]) for name in agents)
        widths = tuple(_obs_width(name, env.observation_spaces[name]) for name in agents)
        columns = max(sum(head.columns for head in agent_heads) for agent_heads in heads)
        return cls(
            agents=agents,
            obs_widths=widths,
            action_heads=heads,
            state_dim=int(env.state_dim),
            obs_names=_names(env, "obs_names", max(widths)),
            state_names=_names(env, "state_names", int(env.state_dim)),
            action_names=_names(env, "action_names", columns),
        )

    @property
    def obs_dim(self) -> int:
        """Own-observation width O of the widest agent."""
        return max(self.obs_widths)

    @property
    def obs_valid(self) -> Tensor:
        """(A, O) bool: which observation columns are real for which agent."""
        return torch.arange(self.obs_dim) < torch.tensor(self.obs_widths).unsqueeze(-1)

    @property
    def action_spec(self) -> ActionSpec:
        """The action columns that all agents share: head by head as wide as the widest agent."""
        kinds = {tuple(head.kind for head in heads) for heads in self.action_heads}
        if len(kinds) > 1:
            raise ValueError(f"the agents' actions must have the same kinds of parts in the same order; got {kinds}")
        shared, valid = [], []
        for position, kind in enumerate(kinds.pop()):
            sizes = torch.tensor([heads[position].size for heads in self.action_heads])  # (A,)
            shared.append(HeadSpec(kind, int(sizes.max())))
            valid.append(torch.arange(shared[-1].columns) < sizes.unsqueeze(-1))  # (A, columns)
        return ActionSpec(tuple(shared), torch.cat(valid, dim=-1))

    def policy_ids(self, sharing: str) -> tuple[int, ...]:
        """The one mapping agent -> policy: all 0, 0 .. A-1, or a number for each set of agents with equal spaces."""
        if sharing == "shared":
            return (0,) * len(self.agents)
        if sharing == "independent":
            return tuple(range(len(self.agents)))
        spaces = list(zip(self.obs_widths, self.action_heads, strict=True))
        groups = list(dict.fromkeys(spaces))
        return tuple(groups.index(space) for space in spaces)

    def differences(self, other: "EnvSpec", *, ignoring: Collection[str] = ()) -> list[str]:
        """What differs in `other`, one readable line for each field not in `ignoring`; empty if nothing does."""
        lines = []
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if mine == theirs or name in ignoring:
                continue
            if name.endswith("_names") and len(mine) == len(theirs):
                changed = [f"{a} -> {b}" for a, b in zip(mine, theirs, strict=True) if a != b]
                lines.append(f"{name}: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}")
            elif name.endswith("_names"):
                missing, added = sorted(set(mine) - set(theirs)), sorted(set(theirs) - set(mine))
                lines.append(f"{name}: {len(mine)} -> {len(theirs)} columns, without {missing[:5]}, with {added[:5]}")
            else:
                lines.append(f"{name}: {_plain(mine)} -> {_plain(theirs)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Lists, strings and numbers only."""
        heads = [[[head.kind, head.size] for head in agent_heads] for agent_heads in self.action_heads]
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {**plain, "action_heads": heads}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        heads = tuple(tuple(HeadSpec(*head) for head in agent_heads) for agent_heads in values["action_heads"])
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**{**plain, "action_heads": heads})


def check_vec_env(env: object) -> None:
    """Raise a ValueError that lists what `env` lacks of the VecEnv interface."""
    needed = (
        "num_envs",
        "device",
        "agents",
        "observation_spaces",
        "action_spaces",
        "state_dim",
        "reset",
        "step",
        "close",
    )
    if missing := [name for name in needed if not hasattr(env, name)]:
        raise ValueError(f"env must be a VecEnv (see mappo.vec_env); {type(env).__name__} lacks {', '.join(missing)}")


def check_reset(obs: Tensor, state: Tensor, env: VecEnv, spec: EnvSpec) -> None:
    """Check the shapes and types that `reset` returned."""
    copies, agents = env.num_envs, len(spec.agents)
    _check("reset: obs", obs, (copies, agents, spec.obs_dim), floating=True)
    _check("reset: state", state, (copies, spec.state_dim), floating=True)


def check_step(step: Step, env: VecEnv, spec: EnvSpec) -> None:
    """Check the shapes and types of one Step, once a rollout."""
    copies, agents = env.num_envs, len(spec.agents)
    for name in ("obs", "final_obs"):
        _check(f"step: {name}", getattr(step, name), (copies, agents, spec.obs_dim), floating=True)
    for name in ("state", "final_state"):
        _check(f"step: {name}", getattr(step, name), (copies, spec.state_dim), floating=True)
    _check("step: rewards", step.rewards, (copies, agents), floating=True)
    for name in ("terminated", "truncated", "alive"):
        _check(f"step: {name}", getattr(step, name), (copies, agents), floating=False)
    _check("step: action_mask", step.action_mask, (copies, agents, spec.action_spec.mask_columns), floating=False)
    for name, value in step.metrics.items():
        if value.shape != (copies,):
            raise ValueError(f"step: metrics[{name!r}] must be {(copies,)}; got {tuple(value.shape)}")


def _check(name: str, value: Tensor, shape: tuple[int, ...], *, floating: bool) -> None:
    if value.shape != shape:
        raise ValueError(f"{name} must be {shape}; got {tuple(value.shape)}")
    if value.is_floating_point() != floating or (not floating and value.dtype != torch.bool):
        raise ValueError(f"{name} must be {'floating point' if floating else 'bool'}; got {value.dtype}")


def _obs_width(agent: str, space: gymnasium.Space[Any]) -> int:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"observation space of {agent} must be a Box with one dimension; got {space}. Flatten it first"
        )
    return space.shape[0]


def _action_heads(agent: str, space: gymnasium.Space[Any]) -> tuple[HeadSpec, ...]:
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(f"action space of {agent} must be a Box; got {space}. Only Box actions are supported")
    return (HeadSpec("box", math.prod(space.shape)),)


def _names(env: VecEnv, attribute: str, width: int) -> tuple[str, ...]:
    names: Sequence[object] = getattr(env, attribute, range(width))
    if len(names) != width:
        raise ValueError(f"env.{attribute} must name {width} columns; got {len(names)}")
    return tuple(str(name) for name in names)


def _plain(value: object) -> object:
    if isinstance(value, tuple) and all(isinstance(item, tuple) for item in value):
        return [[f"{head[0]}({head[1]})" for head in heads] for heads in value]
    return list(value) if isinstance(value, tuple) else value
