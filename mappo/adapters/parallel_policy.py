"""A trained policy on a user's own ParallelEnv: dicts of observations in, dicts of actions out.

Data flow: observations of the env -> flat rows -> `Policy.choose` -> `ActionDecoder` -> actions of the env.
Dims: A agents, O own-observation width, U action columns, K action-mask columns.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mappo.adapters.flatten import Encoder
from mappo.adapters.parallel_layout import ParallelLayout
from mappo.adapters.unflatten import MASK_KEY
from mappo.policy import Policy
from mappo.spaces import EnvSpec, action_heads

Array = np.ndarray[Any, np.dtype[Any]]

_COMPARED = ("agents", "obs_widths", "action_heads")  # the state is the critics', and heads tell what actions are


class ParallelPolicy:
    """Plays one episode at a time; a recurrent policy remembers what each agent saw since it appeared.

    Attributes:
        policy: the trained one; its weights are used as they are now.
    """

    def __init__(self, policy: Policy, env: Any, *, encoder: Encoder | None = None) -> None:
        """Compare the policy with the env's agents and spaces; the env is not reset, stepped or closed.

        Args:
            policy: from `load_policy` or `trainer.policy`.
            env: a ParallelEnv like the one it was trained on.
            encoder: of images, the one of the training (see `PettingZooVecEnv`).

        Raises:
            ValueError: no ParallelEnv, a space that is not supported, or a policy for other agents or spaces.
        """
        self.policy = policy
        self._layout = layout = ParallelLayout(env, seed=None, encoder=encoder)
        if lines := policy.spec.differences(_spec_of(layout), ignoring=_ignored(layout)):
            details = "\n".join(f"  {line}" for line in lines)
            raise ValueError(
                f"the policy does not fit {layout.name} (policy -> env):\n{details}\nMake it as for training"
            )
        self._positions = {agent: i for i, agent in enumerate(layout.ids)}
        self._memory: Tensor | None = None  # (1, A, M) after the last `act`
        self._acted = torch.zeros(1, len(layout.ids), dtype=torch.bool)  # in the last `act`

    def reset(self) -> None:
        """Forget the past, as at the beginning of an episode; only recurrent policies have one."""
        self._memory = None

    @torch.no_grad()
    def act(
        self,
        observations: Mapping[Any, Any],
        infos: Mapping[Any, Any] | None = None,
        *,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> dict[Any, Any]:
        """Actions of the agents in `observations`, each in the agent's own action space.

        Args:
            observations: of those who act now. PettingZoo also returns what agents saw last whose episode has just
                ended: leave them out, `{agent: observations[agent] for agent in env.agents}`. An agent that was left
                out before begins with a blank memory.
            infos: as the env returned them, for environments that put `action_mask` there.
            deterministic: the most likely action; False draws one.
            generator: on the policy's device, for draws; by default torch's own.

        Raises:
            ValueError: an unknown agent, an observation outside its space by more than training lets pass (1 % of its
                width), or a mask that is missing, of a wrong size, or allows nothing.
        """
        obs, mask = self._read(observations, infos or {})
        acts = torch.tensor([[agent in observations for agent in self._positions]])  # (1, A)
        memory = self.policy.recall(self._memory, 1)
        memory = memory.masked_fill(~self._acted.unsqueeze(-1).to(memory.device), 0.0)
        columns, memory = self.policy.choose(obs, mask, memory, deterministic, generator)
        self._memory, self._acted = memory, acts
        actions = columns.cpu().numpy()  # (1, A, U)
        return {
            agent: self._layout.decoders[self._positions[agent]](actions[:, self._positions[agent]])[0]
            for agent in observations
        }

    def _read(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any]) -> tuple[Tensor, Tensor]:
        """Obs (1, A, O) and action_mask (1, A, K); rows of the absent hold zeros and every choice of their space."""
        layout = self._layout
        obs, mask = np.zeros((1, *layout.low.shape), np.float32), layout.choice_valid[None].copy()
        for agent, raw in observations.items():
            if agent not in self._positions:
                raise ValueError(f"observations name {agent!r}; the agents are {', '.join(layout.agents)}")
            i = self._positions[agent]
            flattener = layout.flatteners[i]
            row = obs[0, i, : flattener.width]
            flattener.write(raw, row)
            if (fault := flattener.fault(row)) and not flattener.is_slight(row):
                raise ValueError(fault)
            if (own := layout.read_mask(i, raw, infos.get(agent))) is not None:
                self._check_mask(i, own)
                mask[0, i, layout.mask_columns_of[i]] = own
        return torch.from_numpy(obs), torch.from_numpy(mask)

    def _check_mask(self, i: int, own: Array) -> None:
        """Each choice of the agent has something left to choose."""
        heads = self.policy.spec.action_heads[i]
        ends = np.cumsum([head.mask_columns for head in heads if head.mask_columns])
        for slot, part in enumerate(np.split(own, ends[:-1])):
            if not part.any():
                raise ValueError(f"{MASK_KEY} of {self._layout.agents[i]} allows none of the choices of slot {slot}")


def _spec_of(layout: ParallelLayout) -> EnvSpec:
    pairs = zip(layout.agents, layout.action_spaces, strict=True)
    return EnvSpec(
        agents=tuple(layout.agents),
        obs_widths=tuple(flattener.width for flattener in layout.flatteners),
        action_heads=tuple(action_heads(agent, space) for agent, space in pairs),
        state_dim=layout.state_dim,
        obs_names=tuple(layout.obs_names),
        state_names=tuple(layout.state_names),
        action_names=tuple(map(str, range(layout.columns))),
    )


def _ignored(layout: ParallelLayout) -> set[str]:
    """What may differ. Names of columns count only where the env has names of its own, not those of a plain Box."""
    has_names = any(not name.startswith("obs[") for name in layout.obs_names)
    return {field.name for field in fields(EnvSpec)} - {*_COMPARED, *(["obs_names"] if has_names else [])}
