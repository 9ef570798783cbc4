"""The action tensor (B, A, U): its columns, the spaces of the agents, checks, and its parts.

Data flow: actions of a policy -> `ActionLayout.checked` -> `split` -> devices, protocols, the DSO. Columns: powers and
bids of the microgrids in [-1, 1], then choices as indices. The DSO, where it is an agent, is the last one and has
choices alone; columns that an agent does not have are ignored. Dims: B copies, A agents, U columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from envs.power.countdown import Number, runs_behind


class Choice(NamedTuple):
    """One discrete decision of an agent."""

    name: str
    options: int
    idle: int  # the option that changes nothing


class Actions(NamedTuple):
    """The parts of one step's actions."""

    powers: Tensor  # (B, M, X) in [-1, 1] of the M microgrids
    bids: Tensor  # (B, M, 0 or 1) in [-1, 1]
    choices: Tensor  # (B, M, H) int64
    operator: Tensor  # (B, K) int64 of the DSO; K = 0 where it is no agent


class Doubt(NamedTuple):
    """Actions that are refused where the number is not 0."""

    actions: Tensor  # (B, A, U)
    wrong: Tensor  # (B, A, U) bool
    rule: str
    number: Number


class ActionLayout:
    """Who decides what, in which column.

    Args:
        microgrids: names of the M microgrids.
        powers: names of their device columns.
        bids: names of their protocol columns.
        choices: of every microgrid.
        operator: name of the DSO's agent -> its choices; empty where it is no agent.
    """

    def __init__(
        self,
        microgrids: Sequence[str],
        *,
        powers: Sequence[str],
        bids: Sequence[str] = (),
        choices: Sequence[Choice] = (),
        operator: Mapping[str, Sequence[Choice]] | None = None,
    ) -> None:
        self._powers, self._bids = tuple(powers), tuple(bids)
        self._microgrids = len(microgrids)
        self._doubts = list[Doubt]()
        self.agents = (*microgrids, *(operator or {}))
        self._choices = [tuple(choices)] * len(microgrids) + [tuple(own) for own in (operator or {}).values()]
        slots = max(map(len, self._choices))
        self._boxes = len(powers) + len(bids)
        per_slot = [dict.fromkeys(own[k].name for own in self._choices if k < len(own)) for k in range(slots)]
        self.names = (*powers, *bids, *(" / ".join(names) for names in per_slot))
        # (A, H) number of options, 1 where an agent has no such choice
        self._options = torch.tensor(
            [[own[k].options if k < len(own) else 1 for k in range(slots)] for own in self._choices]
        ).view(len(self.agents), slots)
        self._idle = torch.tensor([[own[k].idle if k < len(own) else 0 for k in range(slots)] for own in self._choices])
        self._idle = self._idle.view(len(self.agents), slots)

    @property
    def spaces(self) -> dict[str, gymnasium.Space[Any]]:
        """Of each agent: a Box; with choices a Dict of the Box `powers` and each choice; of the DSO MultiDiscrete."""
        box = gymnasium.spaces.Box(-1.0, 1.0, (self._boxes,), np.float32)
        result: dict[str, gymnasium.Space[Any]] = {}
        for i, (agent, own) in enumerate(zip(self.agents, self._choices, strict=True)):
            if i >= self._microgrids:
                result[agent] = gymnasium.spaces.MultiDiscrete([choice.options for choice in own])
            elif own:
                discrete = {choice.name: gymnasium.spaces.Discrete(choice.options) for choice in own}
                result[agent] = gymnasium.spaces.Dict({"powers": box, **discrete})
            else:
                result[agent] = box
        return result

    @property
    def mask_columns(self) -> int:
        """Columns of an action mask: one for each option of each slot's widest choice."""
        return int(self._options.amax(0).sum()) if self._options.numel() else 0

    def idle(self, powers: Tensor) -> Tensor:
        """(A, U) doing nothing, from the devices' idle powers (M, X); a bid in the middle."""
        return self.assemble(powers[None])[0]

    def assemble(self, powers: Tensor, choices: Tensor | None = None) -> Tensor:
        """Actions (B, A, U) of device columns (B, M, X); bids 0, choices (B, M, H) as given or idle, the DSO idle."""
        copies = len(powers)
        idle = self._idle.to(powers).expand(copies, -1, -1)
        if choices is not None:
            idle = idle.clone()
            idle[:, : self._microgrids, : choices.shape[-1]] = choices.to(powers)  # the DSO may have more of them
        missing_agents, missing = len(self.agents) - self._microgrids, self._boxes - powers.shape[-1]
        return torch.cat([torch.nn.functional.pad(powers, (0, missing, 0, missing_agents)), idle], -1)

    def from_unit(self, values: Tensor) -> Tensor:
        """Uniform numbers (B, A, U) in [-1, 1) as actions: choices become indices."""
        options = self._options.to(values)
        index = ((values[..., self._boxes :] + 1) / 2 * options).floor()
        return torch.cat([values[..., : self._boxes], torch.minimum(index, options - 1)], -1)

    def checked(self, given: ArrayLike, copies: int) -> Tensor:
        """The actions of every copy (B, A, U) as a tensor; (A, U) is for all copies.

        Raises:
            ValueError: a wrong shape, a number that is not finite, an index that is no option. Numbers that lie on a
                GPU are judged by the next call or by `judge`, as this would wait for them; until then they count as 0.
        """
        self.judge(" in the step before this one")
        shape = (copies, len(self.agents), len(self.names))
        try:
            actions = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"actions must be a tensor or an array of numbers: {error}") from error
        if actions.is_complex() or actions.dtype == torch.bool:
            raise ValueError(f"actions must be a tensor or an array of real numbers, got {actions.dtype}")
        if tuple(actions.shape) == shape[1:]:
            actions = actions.expand(shape)
        if tuple(actions.shape) != shape:
            raise ValueError(
                f"actions must have shape {shape} (copies, agents, {self.names}) "
                f"or {shape[1:]} for all copies, got {tuple(actions.shape)}"
            )
        actions = self._judged(actions, ~torch.isfinite(actions), "must be finite")
        if self._options.numel():
            index = actions[..., self._boxes :]
            options = self._options.to(actions.device, non_blocking=True)
            # of a choice that an agent does not have, whatever stands there is ignored
            wrong = ((index != index.floor()) | (index < 0) | (index >= options)) & (options > 1)
            boxes = torch.zeros(*shape[:2], self._boxes, dtype=torch.bool, device=actions.device)
            rule = "of a choice must be the index of an option"
            actions = self._judged(actions, torch.cat([boxes, wrong], -1), rule)
        return actions

    def split(self, actions: Tensor) -> Actions:
        """The parts of checked actions (B, A, U)."""
        devices, bids, choices = actions.tensor_split([len(self._powers), self._boxes], -1)
        own, operator = choices.long().tensor_split([self._microgrids], 1)
        per_microgrid, per_operator = len(self._choices[0]), [len(c) for c in self._choices[self._microgrids :]]
        return Actions(
            powers=devices[:, : self._microgrids],
            bids=bids[:, : self._microgrids],
            choices=own[..., :per_microgrid],
            operator=operator[:, 0, : per_operator[0]] if per_operator else operator.flatten(1),
        )

    def flat(self, agent: str, action: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        """One agent's row (U,) of an action in its space.

        Raises:
            ValueError: it does not lie in the space's shape.
        """
        i = self.agents.index(agent)
        row = np.zeros(len(self.names), np.float32)
        own = self._choices[i]
        if i >= self._microgrids:
            row[self._boxes : self._boxes + len(own)] = self._shaped(agent, action, (len(own),))
        elif own:
            names = ["powers", *(choice.name for choice in own)]
            if not isinstance(action, Mapping) or set(action) != set(names):
                raise ValueError(f"action of {agent} must be a dict of {', '.join(names)}, got {action!r}")
            row[: self._boxes] = self._shaped(f"{agent}: powers", action["powers"], (self._boxes,))
            row[self._boxes : self._boxes + len(own)] = [
                self._shaped(f"{agent}: {choice.name}", action[choice.name], ()) for choice in own
            ]
        else:
            row[: self._boxes] = self._shaped(agent, action, (self._boxes,))
        return row

    def _shaped(self, what: str, action: Any, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        if np.shape(action) != shape:
            raise ValueError(f"action of {what} must have shape {shape}, got {np.shape(action)}")
        return np.asarray(action, np.float32)

    def judge(self, when: str = "") -> None:
        """Refuse what was wrong in the last call of `checked`, where it is not known yet; it waits for that.

        Raises:
            ValueError: as `checked`.
        """
        doubts, self._doubts = self._doubts, []
        for doubt in doubts:
            self._settle(doubt, when)

    def forget(self) -> None:
        """Nothing that was given so far is judged any more: its episodes are over."""
        self._doubts = []

    def _judged(self, actions: Tensor, wrong: Tensor, rule: str) -> Tensor:
        """The actions; where that is known later only, with 0, which is always an option, for what is wrong."""
        doubt = Doubt(actions, wrong, rule, Number(wrong.count_nonzero()))
        if not runs_behind(actions.device):
            self._settle(doubt)
            return actions
        self._doubts.append(doubt._replace(actions=actions.clone()))  # the caller may write over them
        return torch.where(wrong, 0.0, actions)

    def _settle(self, doubt: Doubt, when: str = "") -> None:
        if int(doubt.number):
            copy, agent, column = torch.nonzero(doubt.wrong)[0].tolist()
            raise ValueError(
                f"actions {doubt.rule}, got {doubt.actions[copy, agent, column]} for {self.names[column]} of "
                f"{self.agents[agent]} in copy {copy}{when}"
            )
