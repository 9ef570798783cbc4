"""Small PettingZoo ParallelEnvs, each made to show one behaviour of the adapter."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

ByAgent = dict[str, Any]


class ToyParallelEnv(ParallelEnv[str, Any, Any]):
    """Two agents with Box(3) observations and Discrete(4) actions; the action is the reward. Cut at `horizon`.

    Subclasses override `observe`, `rewards`, `after` (who is there after step t) and `terminations`.
    """

    def __init__(self, agents: Sequence[str] = ("one", "two"), *, horizon: int | None = 5) -> None:
        """`horizon` None: it never ends."""
        self.metadata = {"name": "toy"}
        self.render_mode = None
        self.possible_agents = list(agents)
        self.agents: list[str] = []
        self.horizon = horizon
        self.observation_spaces = {agent: spaces.Box(-1, 1, (3,)) for agent in agents}
        self.action_spaces = {agent: spaces.Discrete(4) for agent in agents}
        self.time = 0
        self.np_random = np.random.default_rng()
        self.taken: list[ByAgent] = []
        self.seeds: list[int | None] = []
        self.closed = False

    def observation_space(self, agent: str) -> Any:
        """From the dict."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """From the dict."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ByAgent, ByAgent]:
        """Everyone that `after` names at time 0."""
        self.np_random = np.random.default_rng(seed)
        self.seeds.append(seed)
        self.time = 0
        self.agents = self.after(0)
        return {agent: self.observe(agent) for agent in self.agents}, self.infos(self.agents)

    def step(self, actions: ByAgent) -> tuple[ByAgent, ByAgent, ByAgent, ByAgent, ByAgent]:
        """Dicts hold whoever acted and whoever is there afterwards."""
        assert set(actions) == set(self.agents), f"actions of {list(actions)}, alive are {self.agents}"
        for agent, action in actions.items():
            assert self.action_spaces[agent].contains(action), f"{agent} did {action!r}"
        self.taken.append(actions)
        self.time += 1
        cut = self.horizon is not None and self.time >= self.horizon
        there = list(dict.fromkeys([*self.agents, *self.after(self.time)]))
        terminated = {agent: self.terminates(agent) for agent in there}
        truncated = {agent: cut and not terminated[agent] for agent in there}
        obs = {agent: self.observe(agent) for agent in there}
        rewards = {agent: self.reward(agent, actions) for agent in there}
        self.agents = [] if cut else [agent for agent in self.after(self.time) if not terminated[agent]]
        return obs, rewards, terminated, truncated, self.infos(there)

    def close(self) -> None:
        """Only once."""
        assert not self.closed, "closed twice"
        self.closed = True

    def after(self, time: int) -> list[str]:
        """Who is there after step `time`."""
        return list(self.possible_agents)

    def observe(self, agent: str) -> Any:
        """Random, so that it tells the seeds apart."""
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reward(self, agent: str, actions: ByAgent) -> Any:
        """The action; 0 for whoever did not act."""
        return float(actions.get(agent, 0))

    def terminates(self, agent: str) -> bool:
        """Nobody does."""
        return False

    def infos(self, agents: Sequence[str]) -> ByAgent:
        """Empty."""
        return {agent: {} for agent in agents}


class NestedEnv(ToyParallelEnv):
    """Two agents with different, nested spaces, and a `state()`; the reward tells which action arrived."""

    def __init__(self, *, horizon: int | None = 5) -> None:
        super().__init__(("walker", "talker"), horizon=horizon)
        self.observation_spaces = {
            "walker": spaces.Dict(
                {
                    "position": spaces.Box(-2, 2, (2,), np.float64),
                    "mode": spaces.Discrete(3, start=1),
                    "rest": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3], start=[0, -1]))),
                }
            ),
            "talker": spaces.Box(-np.inf, np.inf, (2, 2)),
        }
        self.action_spaces = {
            "walker": spaces.Dict(
                {
                    "gear": spaces.Discrete(3, start=-1),
                    "push": spaces.Box(0, np.inf, (1,)),
                    "turn": spaces.Box(np.array([-1.0, 10.0]), np.array([3.0, 20.0]), dtype=np.float64),
                    "switches": spaces.Tuple((spaces.MultiBinary(2), spaces.Box(0, 9, (1,), np.int32))),
                }
            ),
            "talker": spaces.MultiDiscrete([2, 4], start=[5, 0]),
        }

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ByAgent, ByAgent]:
        """Observations are drawn from the spaces, whose seed is that of the episode."""
        for space in self.observation_spaces.values():
            space.seed(seed)
        return super().reset(seed, options)

    def observe(self, agent: str) -> Any:
        """Any sample."""
        return self.observation_spaces[agent].sample()

    def reward(self, agent: str, actions: ByAgent) -> Any:
        """A sum over the action."""
        flat: Any = spaces.flatten(self.action_spaces[agent], actions[agent])
        return float(flat.sum())

    def state(self) -> np.ndarray[Any, Any]:
        """The time, twice."""
        return np.full((2, 1), self.time, np.float64)


class MaskedEnv(ToyParallelEnv):
    """At time t only action t % 4 is allowed; one agent gets the mask in its observation, the other in its info."""

    def __init__(self, *, horizon: int | None = 5) -> None:
        super().__init__(horizon=horizon)
        box, mask = spaces.Box(-1, 1, (3,)), spaces.Box(0, 1, (4,), np.int8)
        self.observation_spaces = {"one": spaces.Dict({"action_mask": mask, "observation": box}), "two": box}

    def allowed(self) -> np.ndarray[Any, Any]:
        """The only allowed choice."""
        return (np.arange(4) == self.time % 4).astype(np.int8)

    def observe(self, agent: str) -> Any:
        """With a mask for the first agent."""
        own = super().observe(agent)
        return {"observation": own, "action_mask": self.allowed()} if agent == "one" else own

    def infos(self, agents: Sequence[str]) -> ByAgent:
        """With a mask for the second."""
        return {agent: {"action_mask": self.allowed()} if agent == "two" else {} for agent in agents}

    def step(self, actions: ByAgent) -> tuple[ByAgent, ByAgent, ByAgent, ByAgent, ByAgent]:
        """Refuses what the mask forbids."""
        assert all(action == self.time % 4 for action in actions.values()), f"{actions} at {self.time}"
        return super().step(actions)


class MortalParallelEnv(ToyParallelEnv):
    """`lives[agent]` = (first, last): it appears after step `first` and is gone after step `last`.

    `flagged` False: it leaves without a flag and without entries in the dicts. `bonus`: a reward for the dead.
    """

    def __init__(
        self, lives: dict[str, tuple[int, int]], *, horizon: int | None = 6, flagged: bool = True, bonus: float = 0.0
    ) -> None:
        super().__init__(list(lives), horizon=horizon)
        self.lives, self.flagged, self.bonus = lives, flagged, bonus

    def after(self, time: int) -> list[str]:
        """Those whose life has begun and not ended."""
        return [agent for agent, (first, last) in self.lives.items() if first <= time < last]

    def terminates(self, agent: str) -> bool:
        """At the end of its life."""
        return self.flagged and self.time == self.lives[agent][1]

    def step(self, actions: ByAgent) -> tuple[ByAgent, ByAgent, ByAgent, ByAgent, ByAgent]:
        """As described."""
        results = super().step(actions)
        rewards = results[1]
        for agent in self.possible_agents:
            if not self.flagged and self.time == self.lives[agent][1]:
                for result in results:
                    result.pop(agent)
            elif self.time > self.lives[agent][1] and self.bonus:
                rewards[agent] = self.bonus
        return results


class ImageEnv(ToyParallelEnv):
    """Observes an 8 x 8 x 3 image and a number."""

    def __init__(self) -> None:
        super().__init__()
        space = spaces.Dict({"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8), "speed": spaces.Box(0, 1, (1,))})
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)

    def observe(self, agent: str) -> Any:
        """Any sample."""
        return {
            "camera": self.np_random.integers(0, 256, (8, 8, 3), np.uint8),
            "speed": self.np_random.uniform(0, 1, 1).astype(np.float32),
        }


class BrokenEnv(ToyParallelEnv):
    """Does `fault(self, results)` to what its step number `at` (counted over all episodes) returns."""

    def __init__(self, fault: Callable[["BrokenEnv", tuple[ByAgent, ...]], Any], *, at: int = 2) -> None:
        super().__init__()
        self.fault, self.at, self.count = fault, at, 0

    def step(self, actions: ByAgent) -> Any:
        """Right until then."""
        results = super().step(actions)
        self.count += 1
        return (self.fault(self, results) or results) if self.count == self.at else results


def fail(env: BrokenEnv, results: Any) -> None:
    """A fault that raises."""
    raise KeyError("the door is locked")


def vanish(env: BrokenEnv, results: Any) -> None:
    """A fault that ends the process, as a crash in compiled code does."""
    os._exit(3)
