"""A small VMAS scenario whose agents differ and whose copies end when a test says so."""

from typing import Any

import torch
from torch import Tensor
from vmas.simulator.core import Agent, World
from vmas.simulator.scenario import BaseScenario


class Mixed(BaseScenario):
    """Two kinds of agents; copy b is done after `lifetimes[b]` steps, 0 for never."""

    def __init__(self, *lifetimes: int) -> None:
        super().__init__()
        self.lifetimes = torch.tensor(lifetimes)
        self.broken: tuple[str, float] | None = None  # what becomes of an observation or a reward

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        world = World(batch_dim, device, dim_c=2)
        world.add_agent(Agent("scout", u_range=0.5))
        world.add_agent(Agent("base", u_range=[1.0, 2.0], silent=False))
        self.age = torch.zeros(batch_dim)
        return world

    def reset_world_at(self, env_index: int | None = None) -> None:
        agents: Any = self.world.agents
        rows, shape = (slice(None), (self.world.batch_dim, 2)) if env_index is None else (env_index, (2,))
        self.age[rows] = 0
        for agent in agents:
            agent.set_pos(torch.rand(shape), batch_index=env_index)

    def post_step(self) -> None:
        self.age += 1

    def observation(self, agent: Any) -> Any:
        if agent.name == "base":
            return torch.cat([agent.state.pos, self.age.unsqueeze(-1)], dim=-1)
        pos = agent.state.pos
        if self.broken and self.broken[0] == "observation":
            pos = pos.where(torch.arange(len(pos)).unsqueeze(-1) != 1, self.broken[1])
        return {"pos": pos, "more": {"age": self.age.unsqueeze(-1), "twice": 2 * pos}}

    def reward(self, agent: Agent) -> Tensor:
        own = torch.full_like(self.age, 1.0 if agent.name == "base" else 2.0)
        return own * self.broken[1] if self.broken and self.broken[0] == "reward" else own

    def done(self) -> Tensor:
        return self.age == self.lifetimes

    def info(self, agent: Any) -> dict[str, Tensor]:
        position = {"pos": agent.state.pos, "age_rew": self.age.unsqueeze(-1)}
        return {**position, "x": agent.state.pos[:, 0], **({"is_old": self.age > 1} if agent.name == "base" else {})}
