"""Several ParallelEnvs stepped in this process, into numpy arrays that are overwritten at each step.

Data flow: actions -> `ParallelBatch` -> `BatchArrays` -> `PettingZooVecEnv`, directly or out of a worker process.
Dims: k copies, A agents, O own-observation width, S state width, U action columns, K action-mask columns.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mappo.adapters.batch import Array, BatchArrays
from mappo.adapters.parallel_layout import ParallelLayout, without_guards
from mappo.adapters.unflatten import MASK_KEY

_FIVE_DICTS = (dict,) * 5


class OutsideSpaceWarning(UserWarning):
    """An observation lies so slightly outside its space that it is let pass; given once for each vectorised env."""


def episode_seed(seed: int, copy: int, episode: int) -> int:
    """Seed of one episode of one copy, below 2**31; a hash, so that no two copies or runs follow each other's."""
    return int(np.random.SeedSequence(seed, spawn_key=(copy, episode)).generate_state(1)[0] >> 1)


class ParallelBatch:
    """k copies of a ParallelEnv. A copy whose episode is over begins the next one in the same step.

    An agent is alive if the env lists it in `agents` and has not flagged it; the episode is over when none is. Only
    agents that acted get flags; one that leaves without a flag has terminated. Every reward in the dict counts, also
    that of an agent that did not act: it is part of the team's return.
    """

    def __init__(self, factory: Callable[[], Any], layout: ParallelLayout, *, copies: Sequence[int], seed: int) -> None:
        """Make the envs.

        Args:
            factory: makes one env.
            layout: what each must look like.
            copies: numbers of these copies among all, which their seeds depend on.
            seed: of the whole env.

        Raises:
            ValueError: the factory gives envs that differ.
        """
        self.layout = layout
        self.arrays = BatchArrays.zeros(len(copies), layout.sizes)
        self._copies, self._seed = copies, seed
        self._episodes = [0] * len(copies)
        self._living: list[set[Any]] = [set() for _ in copies]
        self._written = np.zeros((len(copies), len(layout.agents)), np.bool_)  # (k, A): has an observation now
        self._positions = {agent: i for i, agent in enumerate(layout.ids)}
        self._writers = [flattener.write for flattener in layout.flatteners]
        # Views, made once: the row of each copy and agent, as wide as the agent's observation.
        self._obs_rows, self._final_rows = self._rows(self.arrays.obs), self._rows(self.arrays.final_obs)
        sizes = np.asarray(layout.choices, np.int64)
        self._slots = np.cumsum(sizes) - sizes  # first mask column of each choice
        self._raw_rewards: list[Mapping[Any, Any]] = [{} for _ in copies]  # as the env gave them, for errors
        self._has_warned = False
        self.envs: list[Any] = []
        self._seen: list[dict[Any, Any]] = [{} for _ in copies]
        for seen, copy in zip(self._seen, copies, strict=True):
            env = factory()
            layout.check(env, seen)
            self.envs.append(without_guards(env))
            layout.seed_spaces(env, np.random.SeedSequence(seed, spawn_key=(copy,)))

    def reset(self, episodes: Sequence[int]) -> BatchArrays:
        """Begin these episodes, one number for each copy; fills obs, state, alive and action_mask."""
        self._episodes = [int(episode) for episode in episodes]
        everyone = list(range(len(self.envs)))
        self._begin(everyone)
        self._check_masks()
        return self.arrays

    def step(self, actions: Array) -> BatchArrays:
        """Advance every copy with actions (k, A, U), as in `VecEnv`.

        Raises:
            ValueError: an env breaks its own spaces, a number is not finite, or an action is none of the space.
        """
        now, layout = self.arrays, self.layout
        decoded = {agent: layout.decoders[i](actions[:, i]) for agent, i in self._positions.items()}
        for cleared in (now.final_obs, now.terminated, now.truncated, now.alive, now.ended, self._written):
            cleared.fill(0)
        now.action_mask[:] = layout.choice_valid
        over = [copy for copy in range(len(self.envs)) if self._guarded(self._advance, copy, decoded)]
        if layout.state_shape is None:
            now.final_state[:] = now.final_obs[:, layout.own_columns]
        self._check_numbers(now.final_obs, now.final_state, range(len(self.envs)))
        if not np.isfinite(now.rewards).all():
            copy, i = np.argwhere(~np.isfinite(now.rewards))[0].tolist()
            raise ValueError(
                f"reward of {layout.agents[i]} must be finite; got {self._raw_rewards[copy][layout.ids[i]]} in copy "
                f"{self._copies[copy]}"
            )
        np.copyto(now.obs, now.final_obs)
        np.copyto(now.state, now.final_state)
        if not now.alive.all():
            now.obs[~now.alive] = 0.0
            if layout.state_shape is None:
                now.state[:] = now.obs[:, layout.own_columns]
        if over:
            now.ended[over] = True
            for copy in over:
                self._episodes[copy] += 1
            self._begin(over)
        self._check_masks()
        return now

    def close(self) -> None:
        """Close every env."""
        while self.envs:
            self.envs.pop().close()

    def _guarded(self, call: Callable[..., Any], copy: int, *arguments: Any) -> Any:
        """`call(copy, ...)`; an error keeps its traceback and tells where it happened."""
        try:
            return call(copy, *arguments)
        except (Exception, SystemExit) as error:
            error.add_note(f"This happened in copy {self._copies[copy]}, in its episode {self._episodes[copy]}.")
            raise

    def _advance(self, copy: int, decoded: Mapping[Any, list[Any]]) -> bool:
        """Step one copy into final_obs, final_state, rewards, flags, alive and mask; True if its episode is over."""
        env, now, acted = self.envs[copy], self.arrays, self._living[copy]
        actions = {agent: decoded[agent][copy] for agent in env.agents}
        result = env.step(actions)
        if not ((type(result) is tuple and tuple(map(type, result)) == _FIVE_DICTS) or _are_mappings(result, 5)):
            raise ValueError(
                "step() must return (observations, rewards, terminations, truncations, infos), dicts by agent; got "
                f"{_kinds(result)} (copy {self._copies[copy]})"
            )
        obs, rewards, terminations, truncations, infos = result
        present, living, found = set(env.agents), set(), 0
        for agent, i in self._positions.items():
            here, has_acted = agent in present, agent in acted
            if not (here or has_acted):
                continue
            found += here
            terminated, truncated = bool(terminations.get(agent)), bool(truncations.get(agent))
            alive = here and not (terminated or truncated)
            if alive:
                living.add(agent)
                now.alive[copy, i] = True
            if has_acted and not alive:
                now.terminated[copy, i] = terminated or not truncated
                now.truncated[copy, i] = truncated
            if agent in obs and (alive or has_acted):
                self._read_obs(copy, i, obs[agent], self._final_rows[copy][i])
            elif alive or (truncated and has_acted):
                raise ValueError(f"step() gave no observation for {agent}, which is alive or was cut by a limit")
            if alive:
                self._read_mask(copy, i, obs[agent], infos.get(agent))
            if has_acted and agent not in rewards and (alive or agent in terminations):
                raise ValueError(f"step() gave no reward for {agent}, which acted")
        if found < len(present):
            raise ValueError(self._unknown(present))
        self._living[copy] = living
        self._read_rewards(copy, rewards)
        if self.layout.state_shape is not None:
            now.final_state[copy] = self.layout.read_state(env)
        return not living

    def _begin(self, copies: Sequence[int]) -> None:
        """Begin the next episode of these copies; fills their obs, state, alive and mask."""
        now = self.arrays
        for copy in copies:
            self._guarded(self._reset_copy, copy)
        if self.layout.state_shape is None:
            now.state[copies] = now.obs[copies][:, self.layout.own_columns]
        self._check_numbers(now.obs, now.state, copies)

    def _reset_copy(self, copy: int) -> None:
        env, now = self.envs[copy], self.arrays
        result = env.reset(seed=episode_seed(self._seed, self._copies[copy], self._episodes[copy]))
        if not _are_mappings(result, 2):
            raise ValueError(f"reset() must return (observations, infos), dicts by agent; got {_kinds(result)}")
        obs, infos = result
        self.layout.check(env, self._seen[copy])
        now.obs[copy], now.alive[copy], self._written[copy] = 0.0, False, False
        now.action_mask[copy] = self.layout.choice_valid
        living = set(env.agents)
        for agent in env.agents:
            if agent not in self._positions:
                raise ValueError(self._unknown(env.agents))
            i = self._positions[agent]
            if agent not in obs:
                raise ValueError(f"reset() gave no observation for {agent}")
            self._read_obs(copy, i, obs[agent], self._obs_rows[copy][i])
            now.alive[copy, i] = True
            self._read_mask(copy, i, obs[agent], infos.get(agent))
        if not living:
            raise ValueError("reset() began an episode in which env.agents is empty")
        self._living[copy] = living
        if self.layout.state_shape is not None:
            now.state[copy] = self.layout.read_state(env)

    def _read_obs(self, copy: int, i: int, raw: Any, row: Array) -> None:
        """Write the observation of agent number `i` into `row` (O of the agent,)."""
        try:
            self._writers[i](raw, row)
        except ValueError as error:
            raise self._in_copy(copy, error) from error
        self._written[copy, i] = True

    def _read_mask(self, copy: int, i: int, obs: Any, info: Mapping[str, Any] | None) -> None:
        try:
            mask = self.layout.read_mask(i, obs, info)
        except ValueError as error:
            raise self._in_copy(copy, error) from error
        if mask is not None:
            self.arrays.action_mask[copy, i, self.layout.mask_columns_of[i]] = mask

    def _read_rewards(self, copy: int, rewards: Mapping[Any, Any]) -> None:
        self._raw_rewards[copy] = rewards
        row: list[Any] = [0.0] * len(self._positions)
        try:
            for agent, reward in rewards.items():
                row[self._positions[agent]] = reward
            self.arrays.rewards[copy] = row
        except KeyError as error:
            raise ValueError(self._unknown(rewards)) from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"rewards must be one number for each agent; got {dict(rewards)}") from error

    def _check_numbers(self, obs: Array, state: Array, copies: Sequence[int]) -> None:
        """Observations (k, A, O) lie within their spaces and states (k, S) are finite, for these copies."""
        layout = self.layout
        good = (obs >= layout.low) & (obs <= layout.high)
        if not good.all():
            for copy, i in np.argwhere(~good.all(-1) & self._written).tolist():
                flattener = layout.flatteners[i]
                if copy in copies:
                    row = obs[copy, i, : flattener.width]
                    fault = f"{flattener.fault(row)} (copy {self._copies[copy]})"
                    if not flattener.is_slight(row):
                        raise ValueError(fault)
                    if not self._has_warned:
                        text = f"{fault}: so little is let pass, here and from now on"
                        warnings.warn(text, OutsideSpaceWarning, stacklevel=2)
                    self._has_warned = True
        if not np.isfinite(state).all():
            for copy, column in np.argwhere(~np.isfinite(state)).tolist():
                if copy in copies:
                    raise ValueError(
                        f"state() must be finite; entry {column} is {state[copy, column]} in copy {self._copies[copy]}"
                    )

    def _check_masks(self) -> None:
        """Every living agent has a choice in each of its slots."""
        now, layout = self.arrays, self.layout
        if not layout.mask_columns or now.action_mask.all():
            return
        allowed = np.logical_or.reduceat(now.action_mask, self._slots, axis=-1)  # (k, A, H)
        exists = np.logical_or.reduceat(layout.choice_valid, self._slots, axis=-1)  # (A, H)
        stuck = now.alive[..., None] & exists & ~allowed
        if stuck.any():
            copy, i, slot = np.argwhere(stuck)[0].tolist()
            raise ValueError(
                f"{MASK_KEY} of {layout.agents[i]} allows none of the choices of slot {slot} in copy "
                f"{self._copies[copy]}; a living agent needs at least one"
            )

    def _in_copy(self, copy: int, error: ValueError) -> ValueError:
        return ValueError(f"{error} (copy {self._copies[copy]})")

    def _unknown(self, agents: Any) -> str:
        strangers = [agent for agent in agents if agent not in self._positions]
        return f"the env names {strangers}, which possible_agents {list(self.layout.ids)} does not list"

    def _rows(self, obs: Array) -> list[list[Array]]:
        """Views of obs (k, A, O) by copy and agent, each (own width,)."""
        widths = [flattener.width for flattener in self.layout.flatteners]
        return [[obs[copy, i, :width] for i, width in enumerate(widths)] for copy in range(len(obs))]


def _are_mappings(result: Any, number: int) -> bool:
    return isinstance(result, tuple | list) and len(result) == number and all(isinstance(p, Mapping) for p in result)


def _kinds(result: Any) -> str:
    """What `result` is made of, for an error message."""
    kind = type(result).__name__
    if not isinstance(result, tuple | list):
        return kind
    return f"a {kind} of {len(result)}: {', '.join(type(part).__name__ for part in result)}"
