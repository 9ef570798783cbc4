"""Small batched environments for every space, memory and mask: random ones to test laws on, and tasks to learn."""

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mappo.spaces import EnvSpec
from mappo.vec_env import Step

GARBAGE = 7.0  # stands in padded observation columns, which nobody may read


class Task:
    """What the envs of this file share: names, spaces, masks of all true, episodes of `horizon` steps."""

    def __init__(
        self, num_envs: int, observations: Sequence[int], actions: Sequence[spaces.Space[Any]], horizon: int, seed: int
    ) -> None:
        """Observation widths and action spaces, one for each agent."""
        self.num_envs, self.horizon = num_envs, horizon
        self.device = torch.device("cpu")
        self.agents = [f"agent_{a}" for a in range(len(observations))]
        self.observation_spaces = {
            name: spaces.Box(-9, 9, (width,)) for name, width in zip(self.agents, observations, strict=True)
        }
        self.action_spaces = dict(zip(self.agents, actions, strict=True))
        self.state_dim = 2
        self.generator = torch.Generator().manual_seed(seed)
        self.time = torch.zeros(num_envs, dtype=torch.long)
        self.layout = EnvSpec.of(self).action_spec

    def reset(self) -> tuple[Tensor, Tensor]:
        """New episodes in every copy."""
        self.time = torch.zeros_like(self.time)
        self.begin(torch.ones(self.num_envs, dtype=torch.bool))
        return self.look()

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        """Everyone acts."""
        return torch.ones(self.num_envs, len(self.agents), dtype=torch.bool), self.mask()

    def step(self, actions: Tensor) -> Step:
        """Rewards of `earn` (B, A); the episode ends, terminally, after `horizon` steps."""
        rewards = self.earn(actions)
        self.time = self.time + 1
        ended = self.time >= self.horizon
        final_obs, final_state = self.look()
        self.time = torch.where(ended, 0, self.time)
        self.begin(ended)
        obs, state = self.look()
        over = ended.unsqueeze(-1).expand_as(rewards)
        return Step(
            obs=obs,
            state=state,
            final_obs=torch.where(ended.view(-1, 1, 1), final_obs, obs),
            final_state=torch.where(ended.view(-1, 1), final_state, state),
            rewards=rewards,
            terminated=over,
            truncated=torch.zeros_like(over),
            alive=torch.ones_like(over),
            action_mask=self.mask(),
            metrics={},
        )

    def begin(self, fresh: Tensor) -> None:
        """Draw what new episodes need, where fresh (B,), and what every step needs."""
        raise NotImplementedError

    def look(self) -> tuple[Tensor, Tensor]:
        """Observations (B, A, O) and state (B, 2)."""
        raise NotImplementedError

    def earn(self, actions: Tensor) -> Tensor:
        """Rewards (B, A)."""
        raise NotImplementedError

    def mask(self) -> Tensor:
        """Choices that count now, (B, A, K)."""
        return torch.ones(self.num_envs, len(self.agents), self.layout.mask_columns, dtype=torch.bool)

    def close(self) -> None:
        """Nothing to release."""


class RandomEnv(Task):
    """Noise to see and to earn, over any spaces; checks every action that it gets.

    Episodes end at random, half of them by a limit. With `mortal`, agents die and appear in their course. Masks leave
    living agents at least one option for each choice, and dead ones none.
    """

    def __init__(
        self,
        actions: Sequence[spaces.Space[Any]],
        *,
        num_envs: int = 4,
        widths: Sequence[int] = (),
        mortal: bool = True,
        masked: bool = True,
        seed: int = 0,
    ) -> None:
        """`widths` of the observations; default: 2, 3, 4, ..."""
        self.mortal, self.masked = mortal, masked
        self.alive = torch.ones(num_envs, len(actions), dtype=torch.bool)
        super().__init__(num_envs, widths or range(2, 2 + len(actions)), actions, 0, seed)
        self.obs_valid = EnvSpec.of(self).obs_valid
        self.options = torch.ones(0)
        self.choices_made = 0
        self._deal()

    def reset(self) -> tuple[Tensor, Tensor]:
        """Everyone lives."""
        self.alive = torch.ones_like(self.alive)
        self._deal()
        return self.look()

    def step(self, actions: Tensor) -> Step:
        """Rewards are noise around a linear function of the action."""
        self._check(actions)
        acted = self.alive
        ended = self._chance(self.num_envs, 1, p=0.2)
        cut = ended & self._chance(self.num_envs, 1, p=0.5)
        dies = acted & self._chance(*acted.shape, p=0.2) & ~ended & self.mortal
        ended = ended | (dies | ~acted).all(-1, keepdim=True)  # the last one died
        appears = ~acted & self._chance(*acted.shape, p=0.4)
        self.alive = torch.where(ended, True, (acted & ~dies) | appears)
        rewards = actions.float().mean(-1) + torch.randn(acted.shape, generator=self.generator)
        final_obs, final_state = self.look()
        obs, state = self.look()
        self._deal()
        return Step(
            obs=obs,
            state=state,
            final_obs=torch.where(ended.unsqueeze(-1), final_obs, obs),
            final_state=torch.where(ended, final_state, state),
            rewards=torch.where(acted, rewards, 0.0),
            terminated=acted & (dies | (ended & ~cut)),
            truncated=acted & cut & ~dies,
            alive=self.alive,
            action_mask=self.mask(),
            metrics={},
        )

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        """The first options."""
        return self.alive, self.mask()

    def look(self) -> tuple[Tensor, Tensor]:
        """Fresh noise; padding holds garbage."""
        obs = torch.randn(self.num_envs, *self.obs_valid.shape, generator=self.generator) * 2 + 1
        return torch.where(self.obs_valid, obs, GARBAGE), torch.randn(self.num_envs, 2, generator=self.generator)

    def mask(self) -> Tensor:
        """The options dealt last, none for the dead."""
        return self.options

    def _deal(self) -> None:
        shape = (self.num_envs, len(self.agents))
        parts = [torch.ones(*shape, 0, dtype=torch.bool)]
        for size in self.layout.choices:
            part = self._chance(*shape, size, p=0.6 if self.masked else 1.0)
            sure = torch.nn.functional.one_hot(torch.zeros(shape, dtype=torch.long), size).bool()
            parts.append(part | sure)  # option 0 is everyone's
        self.options = torch.cat(parts, dim=-1) & self.alive.unsqueeze(-1)

    def _check(self, actions: Tensor) -> None:
        """Real columns only: choices are dealt options, bounded Boxes are in [-1, 1]."""
        assert torch.isfinite(actions).all()
        layout, boxes = self.layout, self.layout.box_columns
        box = actions[..., :boxes]
        assert (box.abs() <= 1)[(layout.valid & layout.bounded)[:, :boxes].expand_as(box)].all()
        starts = torch.tensor([0, *layout.choices]).cumsum(0)[:-1]
        index = (actions[..., boxes:].long() + starts).clamp(max=max(layout.mask_columns - 1, 0))
        taken = (layout.choice_valid & self.options).gather(-1, index) if len(starts) else index.bool()
        real = layout.valid[:, boxes:] & self.alive.unsqueeze(-1)
        assert taken[real].all(), "an option was taken that is masked or that the agent does not have"
        self.choices_made += int(real.sum())

    def _chance(self, *shape: int, p: float) -> Tensor:
        return torch.rand(shape, generator=self.generator) < p


class MatrixGame(Task):
    """Two agents choose a row and a column of a table without seeing anything, and share what its cell pays.

    The best cell pays 8; the two others that reward agreement pay 5 and 3.
    """

    payoff = torch.tensor([[8.0, -2.0, 0.0], [-2.0, 5.0, 0.0], [0.0, 0.0, 3.0]])

    def __init__(self, num_envs: int = 32, *, seed: int = 0) -> None:
        """One step an episode."""
        super().__init__(num_envs, (1, 1), (spaces.Discrete(3), spaces.Discrete(3)), 1, seed)

    def begin(self, fresh: Tensor) -> None:
        """Nothing changes."""

    def look(self) -> tuple[Tensor, Tensor]:
        """Always 1."""
        return torch.ones(self.num_envs, 2, 1), torch.ones(self.num_envs, 2)

    def earn(self, actions: Tensor) -> Tensor:
        """The cell, for both."""
        row, column = actions.long().unbind(-2)
        return self.payoff[row, column].expand(-1, 2)


class Identity(Task):
    """Each of two agents sees one of four symbols and earns 1 by naming it; then another comes."""

    def __init__(self, num_envs: int = 32, *, seed: int = 0) -> None:
        """Four steps an episode."""
        self.symbols = torch.zeros(num_envs, 2, dtype=torch.long)
        super().__init__(num_envs, (4, 4), (spaces.Discrete(4, start=1), spaces.Discrete(4)), 4, seed)

    def begin(self, fresh: Tensor) -> None:
        """New symbols at every step."""
        self.symbols = torch.randint(4, self.symbols.shape, generator=self.generator)

    def look(self) -> tuple[Tensor, Tensor]:
        """One-hot symbols."""
        return torch.nn.functional.one_hot(self.symbols, 4).float(), self.symbols.float()

    def earn(self, actions: Tensor) -> Tensor:
        """1 for the index of the symbol."""
        return (actions.squeeze(-1) == self.symbols).float()


class Recall(Task):
    """A cue, left or right, is seen at step 0 only; the last action of the episode should repeat it.

    Nothing else tells the cue, so whoever forgets it is right half of the time.
    """

    def __init__(self, num_envs: int = 32, *, horizon: int = 7, seed: int = 0) -> None:
        """Two agents with cues of their own."""
        self.cues = torch.zeros(num_envs, 2, dtype=torch.long)
        super().__init__(num_envs, (3, 3), (spaces.Discrete(2), spaces.Discrete(2)), horizon, seed)

    def begin(self, fresh: Tensor) -> None:
        """New cues."""
        drawn = torch.randint(2, self.cues.shape, generator=self.generator)
        self.cues = torch.where(fresh.unsqueeze(-1), drawn, self.cues)

    def look(self) -> tuple[Tensor, Tensor]:
        """(cue as -1 or 1 at step 0, else 0; whether it is step 0; whether it is the last)."""
        first = (self.time == 0).float().unsqueeze(-1).expand(-1, 2)
        last = (self.time == self.horizon - 1).float().unsqueeze(-1).expand(-1, 2)
        obs = torch.stack([first * (2 * self.cues - 1), first, last], dim=-1)
        return obs, obs[:, 0, 1:]

    def earn(self, actions: Tensor) -> Tensor:
        """1 for the cue at the last step."""
        last = (self.time == self.horizon - 1).unsqueeze(-1)
        return ((actions.squeeze(-1) == self.cues) & last).float()


class MixedTask(Task):
    """One agent steers a Box to a number that it sees; the other picks from two menus what the mask leaves.

    Each menu pays its highest open option most, and the second agent does not see what is open: only a mask tells.
    """

    def __init__(self, num_envs: int = 32, *, seed: int = 0) -> None:
        """Four steps an episode."""
        self.target = torch.zeros(num_envs)
        self.open = torch.ones(num_envs, 7, dtype=torch.bool)
        super().__init__(num_envs, (1, 2), (spaces.Box(-3, 3, (1,)), spaces.MultiDiscrete([4, 3])), 4, seed)

    def begin(self, fresh: Tensor) -> None:
        """A new number and new menus at every step; options 0 are always open."""
        self.target = torch.rand(self.num_envs, generator=self.generator) * 1.6 - 0.8
        drawn = torch.rand(self.open.shape, generator=self.generator) < 0.5
        drawn[:, [0, 4]] = True
        self.open = drawn

    def look(self) -> tuple[Tensor, Tensor]:
        """The number; nothing."""
        obs = torch.zeros(self.num_envs, 2, 2)
        obs[:, 0, 0] = self.target
        return obs, torch.stack([self.target, torch.ones_like(self.target)], dim=-1)

    def mask(self) -> Tensor:
        """Agent 0 has no choices; what its row says must not matter."""
        return torch.stack([torch.zeros_like(self.open), self.open], dim=1)

    def earn(self, actions: Tensor) -> Tensor:
        """At most 0 and 2; a closed option would cost 10."""
        steered = -(actions[:, 0, 0] - self.target).abs()
        picks = actions[:, 1, 1:].long()
        menus = self.open.split([4, 3], dim=-1)
        paid = torch.zeros(self.num_envs)
        for pick, menu in zip(picks.unbind(-1), menus, strict=True):
            highest = (menu * torch.arange(menu.shape[-1])).amax(-1)
            is_open = menu.gather(-1, pick.unsqueeze(-1)).squeeze(-1)
            paid = paid + torch.where(is_open, (pick == highest).float(), -10.0)
        return torch.stack([steered, paid], dim=-1)
