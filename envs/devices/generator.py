"""Generators: starts and stops, ramps, cost. Pure functions; docs/devices.md has the rules.

A unit is off, starting, running or stopping. `on` is True while starting and running, and `steps` counts from the
step in which `on` changed, which is step 0. All tensors (B, A) or (A,).
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEAR_MW = 1e-6  # rounding that must not keep a unit from stopping


class Units(NamedTuple):
    """Parameters of the generators, each (A,). Without commitment: on for ever, p_min 0, no times and prices."""

    committed: Tensor  # bool
    p_min_mw: Tensor
    p_max_mw: Tensor
    ramp_mw: Tensor  # per step; inf without a limit
    start_usd: Tensor
    stop_usd: Tensor
    start_steps: Tensor  # int64
    stop_steps: Tensor
    up_steps: Tensor
    down_steps: Tensor
    initially_on: Tensor  # bool; True without commitment

    @property
    def longest(self) -> Tensor:
        """(A,) steps after which nothing depends on how long ago a unit switched."""
        return torch.maximum(self.start_steps + self.up_steps, self.stop_steps + self.down_steps)


class Switched(NamedTuple):
    """Units after the wishes of a step were heard."""

    on: Tensor  # bool
    steps: Tensor  # int64, 0 in the step of a change
    starts: Tensor  # bool: a start begins now
    stops: Tensor  # bool


def locked_steps(on: Tensor, steps: Tensor, units: Units) -> Tensor:
    """Steps until a unit may switch again: start-up and minimum up time, or shut-down and minimum down time."""
    bound = torch.where(on, units.start_steps + units.up_steps, units.stop_steps + units.down_steps)
    return (bound - steps).clamp(min=0)


def switch(wish: Tensor, on: Tensor, steps: Tensor, p_before_mw: Tensor, units: Units) -> Switched:
    """Follow the wishes that are allowed; the others are ignored.

    A unit with a ramp limit may stop only from within one ramp of p_min.

    Args:
        wish: bool, on or off.
        on: bool, before the step.
        steps: since the last change.
        p_before_mw: output of the step before.
        units: parameters.
    """
    low_enough = ~on | (p_before_mw <= units.p_min_mw + units.ramp_mw + NEAR_MW)
    free = (locked_steps(on, steps, units) == 0) & low_enough & units.committed
    change = free & (wish != on)
    return Switched(on ^ change, torch.where(change, 0, steps), change & ~on, change & on)


def running(now: Switched, units: Units) -> Tensor:
    """Bool: on, and its start-up is over."""
    return now.on & (now.steps >= units.start_steps)


def output(wanted_mw: Tensor, wish: Tensor, now: Switched, p_before_mw: Tensor, units: Units) -> Tensor:
    """Real power of the step.

    Running: the wanted power, or p_min where the unit is to stop but must not yet, within [p_min, p_max] and one ramp
    of the step before (of p_min after a start). Stopping: the mean of each step of a straight fall from p_min to 0.
    """
    floor = units.p_min_mw
    base = torch.maximum(p_before_mw, floor)
    low = torch.maximum(base - units.ramp_mw, floor)
    high = torch.minimum(base + units.ramp_mw, units.p_max_mw)
    wanted_mw = torch.where(wish | ~units.committed, wanted_mw, floor)
    run_mw = torch.minimum(torch.maximum(wanted_mw, low), high)
    left = 1 - (now.steps + 0.5) / units.stop_steps.clamp(min=1)
    fall_mw = torch.where(~now.on & (now.steps < units.stop_steps), floor * left, 0.0)
    return torch.where(running(now, units), run_mw, fall_mw)


def next_steps(now: Switched, units: Units) -> Tensor:
    """The counter at the start of the next step."""
    return torch.minimum(now.steps + 1, units.longest)
