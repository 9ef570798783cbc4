"""Gymnasium spaces -> what the networks need: heads, column layout, padded widths and masks.

Data flow: VecEnv -> EnvSpec -> policy, critic, buffer. An `EnvSpec` is plain data, so a checkpoint stores it and is
compared with the env that it is loaded for. Agents may differ: narrower ones are zero-padded and masked.
Dims: B envs, A agents, O own-observation width, S state width, U action columns, K action-mask columns.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import accumulate, count, groupby
from typing import Any, NamedTuple, Self

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mappo.vec_env import Step, VecEnv


class HeadSpec(NamedTuple):
    """One part of an agent's action: some Box dims side by side, or one categorical choice."""

    kind: str  # "box": both bounds finite, [-1, 1] here; "real": physical units; "choice": an index
    size: int  # Box dims, or the number of choices

    @property
    def columns(self) -> int:
        """Columns that it fills in the action tensor."""
        return 1 if self.kind == "choice" else self.size

    @property
    def mask_columns(self) -> int:
        """Columns that it fills in the action mask: one for each choice; a Box has none."""
        return self.size if self.kind == "choice" else 0


class ActionSpec(NamedTuple):
    """The columns that all agents share: X of Boxes, then one for each of H choices; agents fill them from the left."""

    heads: tuple[tuple[HeadSpec, ...], ...]
    """Heads of each agent, in the order of its own space."""
    valid: Tensor  # (A, U) bool: False marks padding
    bounded: Tensor  # (A, U) bool: False where a Box column is in physical units instead of [-1, 1]
    choices: tuple[int, ...]  # of each slot: the widest agent's number of choices
    choice_valid: Tensor  # (A, K) bool: choices that the agent's space has

    @classmethod
    def of(cls, heads: Sequence[Sequence[HeadSpec]]) -> Self:
        """Lay out the heads of A agents."""
        boxes = [
            [head.kind == "box" for head in own if head.kind != "choice" for _ in range(head.size)] for own in heads
        ]
        sizes = [[head.size for head in own if head.kind == "choice"] for own in heads]
        columns, slots = max(map(len, boxes)), max(map(len, sizes))
        widest = tuple(max(own[slot] if slot < len(own) else 0 for own in sizes) for slot in range(slots))
        padded = [own + [0] * (slots - len(own)) for own in sizes]
        valid = [
            [x < len(box) for x in range(columns)] + [n > 0 for n in own]
            for box, own in zip(boxes, padded, strict=True)
        ]
        bounded = [box + [True] * (columns + slots - len(box)) for box in boxes]
        choice_valid = [[i < n for n, most in zip(own, widest, strict=True) for i in range(most)] for own in padded]
        return cls(tuple(map(tuple, heads)), _bools(valid), _bools(bounded), widest, _bools(choice_valid))

    @property
    def box_columns(self) -> int:
        """Number X of columns that hold Box dims."""
        return self.columns - len(self.choices)

    @property
    def columns(self) -> int:
        """Width U of the action tensor."""
        return self.valid.shape[-1]

    @property
    def mask_columns(self) -> int:
        """Width K of the action mask."""
        return sum(self.choices)

    def columns_of(self, agent: int) -> list[int]:
        """Column in U of each of the agent's own flat action columns, which follow its space."""
        boxes, slots = count(), count(self.box_columns)
        return [
            next(slots if head.kind == "choice" else boxes) for head in self.heads[agent] for _ in range(head.columns)
        ]

    def mask_columns_of(self, agent: int) -> list[int]:
        """Column in K of each of the agent's own flat choices."""
        sizes = [head.size for head in self.heads[agent] if head.kind == "choice"]
        starts = accumulate(self.choices, initial=0)
        return [start + i for start, size in zip(starts, sizes, strict=False) for i in range(size)]


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
    space_groups: tuple[int, ...] = ()
    """A number for each set of agents with equal spaces, bounds included; checkpoints from before have none."""

    @classmethod
    def of(cls, env: VecEnv) -> Self:
        """Describe an env; a clear error where its attributes are missing or its spaces are not supported."""
        check_vec_env(env)
        if env.num_envs < 1:
            raise ValueError(f"--num-envs must be at least 1; got {env.num_envs}")
        agents = tuple(env.agents)
        heads = tuple(action_heads(name, env.action_spaces[name]) for name in agents)
        widths = tuple(_obs_width(name, env.observation_spaces[name]) for name in agents)
        columns = ActionSpec.of(heads).columns
        return cls(
            agents=agents,
            obs_widths=widths,
            action_heads=heads,
            state_dim=int(env.state_dim),
            obs_names=_names(env, "obs_names", max(widths)),
            state_names=_names(env, "state_names", int(env.state_dim)),
            action_names=_names(env, "action_names", columns),
            space_groups=_groups([(env.observation_spaces[name], env.action_spaces[name]) for name in agents]),
        )

    @property
    def obs_dim(self) -> int:
        """Own-observation width O of the widest agent."""
        return max(self.obs_widths)

    @property
    def obs_valid(self) -> Tensor:
        """(A, O) bool: which observation columns are real for which agent."""
        return torch.arange(self.obs_dim) < torch.tensor(self.obs_widths).unsqueeze(-1)

    @cached_property
    def action_spec(self) -> ActionSpec:
        """The action columns that all agents share."""
        return ActionSpec.of(self.action_heads)

    def policy_ids(self, sharing: str, policy_map: Mapping[str, str] | None = None) -> tuple[int, ...]:
        """The one mapping agent -> policy: all 0, 0 .. A-1, a number for each set of agents with equal spaces.

        `policy_map` names the policy of each agent instead.

        Raises:
            ValueError: the map does not name exactly these agents.
        """
        if policy_map is not None:
            missing, unknown = set(self.agents) - set(policy_map), set(policy_map) - set(self.agents)
            if missing or unknown:
                wrong = [f"{', '.join(sorted(missing))} is missing"] * bool(missing)
                wrong += [f"{', '.join(sorted(unknown))} is unknown"] * bool(unknown)
                raise ValueError(
                    f"--policy-map must name each of the agents {', '.join(self.agents)} once; {', '.join(wrong)}"
                )
            names = list(dict.fromkeys(policy_map[agent] for agent in self.agents))
            return tuple(names.index(policy_map[agent]) for agent in self.agents)
        if sharing == "shared":
            return (0,) * len(self.agents)
        if sharing == "independent":
            return tuple(range(len(self.agents)))
        return self.space_groups or _groups(list(zip(self.obs_widths, self.action_heads, strict=True)))

    def differences(self, other: "EnvSpec", *, ignoring: Collection[str] = ()) -> list[str]:
        """What differs in `other`, one readable line for each field not in `ignoring`; empty if nothing does."""
        lines = []
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if mine == theirs or name in ignoring or (name == "space_groups" and not mine):
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
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
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


def action_heads(agent: str, space: gymnasium.Space[Any]) -> tuple[HeadSpec, ...]:
    """Flatten an action space, depth first, into heads.

    Raises:
        ValueError: a space that is neither Box, Discrete, MultiDiscrete nor MultiBinary, nor made of them.
    """
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, gymnasium.spaces.Dict) else space.spaces
        return tuple(head for part in parts for head in action_heads(agent, part))
    if isinstance(space, gymnasium.spaces.Box):
        bounded = (np.isfinite(space.low) & np.isfinite(space.high)).flatten().tolist()
        return tuple(HeadSpec("box" if both else "real", len(list(dims))) for both, dims in groupby(bounded))
    if isinstance(space, gymnasium.spaces.Discrete):
        return (HeadSpec("choice", int(space.n)),)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(HeadSpec("choice", int(n)) for n in space.nvec.flatten())
    if isinstance(space, gymnasium.spaces.MultiBinary):
        return (HeadSpec("choice", 2),) * math.prod(space.shape)
    raise ValueError(
        f"action space of {agent} must be Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them; "
        f"got {space}"
    )


def _groups(items: Sequence[object]) -> tuple[int, ...]:
    """Numbers from 0 in the order of appearance, equal for equal items; spaces cannot be hashed."""
    seen: list[object] = []
    for item in items:
        if item not in seen:
            seen.append(item)
    return tuple(seen.index(item) for item in items)


def _bools(rows: Sequence[Sequence[bool]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool).reshape(len(rows), -1)


def _names(env: VecEnv, attribute: str, width: int) -> tuple[str, ...]:
    names: Sequence[object] = getattr(env, attribute, range(width))
    if len(names) != width:
        raise ValueError(f"env.{attribute} must name {width} columns; got {len(names)}")
    return tuple(str(name) for name in names)


def _plain(value: object) -> object:
    if isinstance(value, tuple) and all(isinstance(item, tuple) for item in value):
        return [[f"{head[0]}({head[1]})" for head in heads] for heads in value]
    return list(value) if isinstance(value, tuple) else value
