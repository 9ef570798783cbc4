"""Load that is shed or served later. Pure functions, all tensors (B, A) or (A,), powers in MW."""

from typing import NamedTuple

import torch
from torch import Tensor


class Flexibility(NamedTuple):
    """Parameters of the microgrids' loads, each (A,); 0 where a microgrid lacks the option."""

    nominal_mw: Tensor
    shed_share: Tensor
    shed_usd_per_mwh: Tensor
    defer_share: Tensor
    max_backlog_mwh: Tensor


class Shift(NamedTuple):
    """Deferred load of a step."""

    deferred_mw: Tensor
    served_mw: Tensor  # of the backlog
    backlog_mwh: Tensor  # after the step


def shift(action: Tensor, load_mw: Tensor, backlog_mwh: Tensor, rule: Flexibility, *, dt_h: float, all_: bool) -> Shift:
    """Defer load (action > 0, a share of what may be) or serve what was deferred (action < 0, a share of the backlog).

    Energy is conserved: backlog' = backlog + dt (deferred - served).

    Args:
        action: in [-1, 1].
        load_mw: present load that is not shed.
        backlog_mwh: before the step.
        rule: parameters.
        dt_h: length of the step.
        all_: serve all of the backlog and defer nothing, whatever the action: the last step of a day.
    """
    if all_:
        return Shift(torch.zeros_like(load_mw), backlog_mwh / dt_h, torch.zeros_like(backlog_mwh))
    room_mw = (rule.max_backlog_mwh - backlog_mwh).clamp(min=0.0) / dt_h
    deferred_mw = torch.minimum(action.clamp(min=0.0) * rule.defer_share * load_mw.clamp(min=0.0), room_mw)
    served_mw = (-action).clamp(min=0.0) * backlog_mwh / dt_h
    after = backlog_mwh + dt_h * (deferred_mw - served_mw)
    # what remains beyond the bounds is rounding
    return Shift(deferred_mw, served_mw, torch.minimum(after.clamp(min=0.0), rule.max_backlog_mwh))


def multiplier(load: Tensor, change_mw: Tensor, nominal_mw: Tensor) -> Tensor:
    """Multipliers of the nominal loads after a change of the real power; Q changes in proportion."""
    known = nominal_mw > 0
    changed = load + torch.where(known, change_mw / torch.where(known, nominal_mw, 1.0), 0.0)
    return torch.where(change_mw < 0, changed.clamp(min=0.0), changed)
