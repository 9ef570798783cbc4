"""What the adapter knows of a ParallelEnv before it steps it: agents, spaces, widths. It refuses what it cannot use.

Data flow: one env of the factory -> `ParallelLayout` -> `ParallelBatch` (in every process) and `PettingZooVecEnv`;
one env of a user -> `ParallelLayout` -> `ParallelPolicy`.
Dims: A agents, O own-observation width, S state width, U action columns, K action-mask columns.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import aec_to_parallel, wrappers
from pettingzoo.utils.conversions import aec_to_parallel_wrapper

from mappo.adapters.batch import Sizes
from mappo.adapters.flatten import Encoder, ObservationFlattener, is_image
from mappo.adapters.unflatten import MASK_KEY, ActionDecoder, flatten_mask
from mappo.spaces import ActionSpec, action_heads

Array = np.ndarray[Any, np.dtype[Any]]
Space = gymnasium.Space[Any]

_GUARDS = (wrappers.OrderEnforcingWrapper, wrappers.AssertOutOfBoundsWrapper, wrappers.ClipOutOfBoundsWrapper)


class ParallelLayout:
    """The agents and spaces that every copy must have, and how they are laid out in arrays.

    Attributes:
        name: of the env, fit for a folder; only in the process that made the layout.
        ids: the env's own agent ids, `possible_agents` in order; `agents` are their names.
        observation_spaces, action_spaces: the env's own, in the order of the agents.
        flatteners, decoders: of each agent.
        obs_dim, state_dim, columns, mask_columns: O, S, U and K.
        state_shape: of what `state()` returns; None: the state is the observations side by side.
        mask_columns_of: (own choices,) of each agent, where its mask lies among the K columns.
    """

    def __init__(self, env: Any, *, seed: int | None, encoder: Encoder | None = None) -> None:
        """Read the agents and spaces of one env.

        Args:
            env: an env to look at.
            seed: it is reset with this seed to see what its `state()` returns, and kept until `close`; None: it is
                neither reset nor kept, and its state left out.
            encoder: see `ObservationFlattener`.

        Raises:
            ValueError: no ParallelEnv, no agents, a space that is not supported, or a `reset` that takes no seed.
        """
        self.encoder = encoder
        self._env = None if seed is None else env
        self.ids: tuple[Any, ...] = _checked_agents(env)
        self.agents = [str(agent) for agent in self.ids]
        self.name = _name(env)
        self.observation_spaces = [_space(env, "observation", agent) for agent in self.ids]
        self.action_spaces = [_space(env, "action", agent) for agent in self.ids]
        self._lay_out()
        if seed is not None:
            _check_reset(env)
            env.reset(seed=seed)
        self.state_shape = shape = None if seed is None else _state_shape(env)
        self.state_dim = sum(f.width for f in self.flatteners) if shape is None else int(np.prod(shape))

    def __getstate__(self) -> dict[str, Any]:
        """Without what `_lay_out` makes again."""
        names = ("encoder", "ids", "agents", "observation_spaces", "action_spaces", "state_shape", "state_dim")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._env = None
        self._lay_out()

    def close(self) -> None:
        """Close the env that was looked at."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _lay_out(self) -> None:
        named = list(zip(self.agents, self.observation_spaces, self.action_spaces, strict=True))
        self.flatteners = [ObservationFlattener(name, space, self.encoder) for name, space, _ in named]
        heads = [action_heads(name, space) for name, _, space in named]
        for (name, _, space), own in zip(named, heads, strict=True):
            if not own:
                raise ValueError(
                    f"action space of {name} has no entries; got {space}. An agent that never acts takes a Discrete(1)"
                )
        spec = ActionSpec.of(heads)
        self.decoders = [ActionDecoder(name, space, spec.columns_of(i)) for i, (name, _, space) in enumerate(named)]
        self.columns, self.mask_columns = spec.columns, spec.mask_columns
        self.mask_columns_of = [np.asarray(spec.mask_columns_of(i), np.int64) for i in range(len(named))]
        self.choices = spec.choices
        self.choice_valid = spec.choice_valid.numpy()  # (A, K)
        self.obs_dim = max(flattener.width for flattener in self.flatteners)
        A, O = len(named), self.obs_dim  # noqa: E741
        self.low, self.high = np.zeros((A, O), np.float32), np.zeros((A, O), np.float32)
        self.own_columns = np.zeros((A, O), np.bool_)
        for i, flattener in enumerate(self.flatteners):
            self.low[i, : flattener.width], self.high[i, : flattener.width] = flattener.low, flattener.high
            self.own_columns[i, : flattener.width] = True

    @property
    def sizes(self) -> Sizes:
        """A, O, S, U and K."""
        return Sizes(len(self.agents), self.obs_dim, self.state_dim, self.columns, self.mask_columns)

    @property
    def obs_names(self) -> list[str]:
        """Names of the O columns: those of the agent with most."""
        return max(self.flatteners, key=lambda flattener: flattener.width).names

    @property
    def state_names(self) -> list[str]:
        """Names of the S columns."""
        if self.state_shape is not None:
            return [f"state[{i}]" for i in range(self.state_dim)]
        return [f"{name}.{column}" for name, f in zip(self.agents, self.flatteners, strict=True) for column in f.names]

    def check(self, env: Any, seen: dict[tuple[str, Any], Space]) -> None:
        """Compare an env that has just been made or reset.

        Args:
            env: whose agents and spaces are compared.
            seen: its spaces that were equal before, empty at first; the same object is not compared again, which
                would cost as much as several steps, so bounds that are changed in place go unseen.

        Raises:
            ValueError: its agents or spaces are not those of the first env.
        """
        if tuple(env.possible_agents) != self.ids:
            raise ValueError(
                f"possible_agents must be the same in every copy and episode, {list(self.ids)}; "
                f"got {list(env.possible_agents)}. List every agent that may ever appear"
            )
        for kind, known in (("observation", self.observation_spaces), ("action", self.action_spaces)):
            for agent, expected in zip(self.ids, known, strict=True):
                space = _space(env, kind, agent)
                if space is seen.get((kind, agent)):
                    continue
                if space != expected:
                    raise ValueError(
                        f"{kind} space of {agent} must be the same in every copy and episode, {expected}; got {space}"
                    )
                seen[kind, agent] = space

    def seed_spaces(self, env: Any, sequence: np.random.SeedSequence) -> None:
        """Give each agent's spaces seeds of their own, for envs that sample from them."""
        seeds = iter(sequence.generate_state(2 * len(self.ids)).tolist())
        for agent in self.ids:
            for kind in ("observation", "action"):
                _space(env, kind, agent).seed(next(seeds))

    def read_mask(self, i: int, obs: Any, info: Mapping[str, Any] | None) -> Array | None:
        """What agent number `i` may choose, (own choices,) bool, from its observation or info; None: anything.

        Raises:
            ValueError: the mask is missing where the space promises one, has a wrong size or holds NaN.
        """
        columns = self.mask_columns_of[i]
        if not len(columns):
            return None
        if self.flatteners[i].has_mask:
            if MASK_KEY not in obs:
                raise ValueError(f"observation of {self.agents[i]}: {MASK_KEY} is missing; got {list(obs)}")
            raw = obs[MASK_KEY]
        elif info and MASK_KEY in info:
            raw = info[MASK_KEY]
        else:
            return None
        try:
            mask = flatten_mask(self.action_spaces[i], raw)
        except ValueError as error:
            raise ValueError(f"agent {self.agents[i]}: {error}") from error
        if mask.shape != columns.shape:
            raise ValueError(
                f"{MASK_KEY} of {self.agents[i]} must have {len(columns)} entries, one for each choice of "
                f"{self.action_spaces[i]}; got {mask.size}"
            )
        return mask

    def read_state(self, env: Any) -> Array:
        """The flat state (S,) that the env gives.

        Raises:
            ValueError: it has another shape than at first.
        """
        state = np.asarray(env.state())
        if state.shape != self.state_shape:
            raise ValueError(f"state() must always have shape {self.state_shape}; got {state.shape}")
        return state if state.ndim == 1 else state.ravel()


def check_parallel(env: Any) -> None:
    """Refuse what is no ParallelEnv, saying how to make it one.

    Raises:
        ValueError: an AECEnv, a single-agent env, or something else.
    """
    kind = type(env).__name__
    if isinstance(env, AECEnv):
        raise ValueError(
            f"the env must be a pettingzoo ParallelEnv; {kind} is an AECEnv, whose agents act in turn. Convert it: "
            "pettingzoo.utils.aec_to_parallel(env), or turn_based_aec_to_parallel(env) for a game played in turns"
        )
    if isinstance(env, gymnasium.Env):
        raise ValueError(
            f"the env must be a pettingzoo ParallelEnv; {kind} is a gymnasium.Env with a single agent. Wrap it in a "
            "ParallelEnv with one agent, whose dicts have one entry"
        )
    if missing := [name for name in ("reset", "step", "observation_space", "action_space") if not hasattr(env, name)]:
        raise ValueError(f"the env must be a pettingzoo ParallelEnv; {kind} lacks {', '.join(missing)}")


def without_guards(env: Any) -> Any:
    """The same env without PettingZoo's guards against actions out of order or bounds, which the adapter never takes.

    They cost a third of a step of a particle world. Only an AECEnv that PettingZoo itself converted has them; other
    wrappers stay.
    """
    if type(env) is not aec_to_parallel_wrapper:
        return env
    inner = env.aec_env
    while type(inner) in _GUARDS:
        inner = inner.env
    return env if inner is env.aec_env else aec_to_parallel(inner)


def _name(env: Any) -> str:
    metadata = getattr(env, "metadata", None) or {}
    return re.sub(r"\W+", "-", str(metadata.get("name") or type(env).__name__))


def _checked_agents(env: Any) -> tuple[Any, ...]:
    check_parallel(env)
    agents: tuple[Any, ...] = tuple(getattr(env, "possible_agents", None) or ())
    if not agents:
        raise ValueError(
            f"{type(env).__name__} must have possible_agents, the list of every agent that may ever appear: "
            "the networks are made for them"
        )
    if len({str(agent) for agent in agents}) < len(agents):
        raise ValueError(f"possible_agents must have different names; got {list(agents)}")
    return agents


def _space(env: Any, kind: str, agent: Any) -> Space:
    """`env.observation_space(agent)`; envs that only fill the dict are read there, as ParallelEnv's default would."""
    method = f"{kind}_space"
    inherited = getattr(type(env), method, None) is getattr(ParallelEnv, method)
    table = getattr(env, f"{kind}_spaces", None) if inherited else None
    try:
        space = table[agent] if isinstance(table, Mapping) else getattr(env, method)(agent)
    except KeyError as error:
        raise ValueError(f"the env gives no {kind} space for {agent}") from error
    if not isinstance(space, gymnasium.Space):
        raise ValueError(f"{kind} space of {agent} must be a gymnasium.Space; got {space!r}")
    return space


def _check_reset(env: Any) -> None:
    try:
        signature = inspect.signature(env.reset)
    except (TypeError, ValueError):  # made in C
        return
    try:
        signature.bind(seed=0)
    except TypeError as error:
        raise ValueError(
            f"{type(env).__name__} must have reset(seed=None, options=None), whose seed repeats an episode; "
            f"got reset{signature}"
        ) from error


def _state_shape(env: Any) -> tuple[int, ...] | None:
    """Shape of `state()`; None if the env has none, or one that is empty or an image."""
    # ParallelEnv's own state() only says that there is none, and needs `metadata` for that.
    if not callable(getattr(env, "state", None)) or getattr(type(env), "state", None) is ParallelEnv.state:
        return None
    try:
        state = np.asarray(env.state())
    except NotImplementedError:  # what a wrapped env without one does
        return None
    if state.dtype.kind not in "fiub":
        raise ValueError(f"state() must return an array of numbers; got {state.dtype}")
    return None if not state.size or is_image(state.shape, state.dtype) else state.shape
