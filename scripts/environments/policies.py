"""Policies that know nothing of the task: what a trained one is compared with.

Data flow: action spaces of a VecEnv -> actions (B, A, U). Dims: B copies, A agents, U action columns, K mask columns.
"""

import torch
from torch import Tensor

from mappo import VecEnv
from mappo.spaces import EnvSpec


class Constant:
    """The middle of each bounded Box dim, 0 where a bound is missing, and of each discrete choice one number."""

    def __init__(self, env: VecEnv, choice: int) -> None:
        """`choice` is the index in every discrete head."""
        layout = EnvSpec.of(env).action_spec
        self._action = torch.zeros(layout.valid.shape)  # (A, U)
        self._action[:, layout.box_columns :] = choice

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, O) -> (B, A, U), the same in every copy."""
        del action_mask
        return self._action.to(obs.device).expand(len(obs), -1, -1)


class Random:
    """Uniform within bounds and over the allowed choices; standard normal where a Box dim lacks a bound."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        """A stream of its own."""
        self._layout = EnvSpec.of(env).action_spec
        self._generator = torch.Generator().manual_seed(seed)

    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        """(B, A, O), (B, A, K) -> (B, A, U)."""
        layout, copies = self._layout, len(obs)
        shape = (copies, *layout.valid.shape)
        uniform = 2 * torch.rand(shape, generator=self._generator) - 1
        actions = torch.where(layout.bounded, uniform, torch.randn(shape, generator=self._generator))
        allowed = layout.choice_valid.expand(copies, -1, -1)  # (B, A, K)
        if action_mask is not None:
            allowed = allowed & action_mask.cpu()
        for slot, mine in enumerate(allowed.split(list(layout.choices), dim=-1)):
            drawn = torch.where(mine, torch.rand(mine.shape, generator=self._generator), -1.0)  # the largest wins
            actions[..., layout.box_columns + slot] = drawn.argmax(-1).float()
        return actions.to(obs.device)
