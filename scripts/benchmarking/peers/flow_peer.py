"""What the power-flow peers have in common: one batch as a call, at the loosest tolerance that is close enough."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarking.flow_case import FlowCase, largest_error

TOLERANCES = tuple(digit * 10.0**power for power in range(-2, -13, -1) for digit in (1, 0.5, 0.2))
"""In a library's own measure; from loose to tight."""
INSTALL = 'pip install -c constraints.txt -e ".[bench]"'
Solve = Callable[[float], np.ndarray]
"""Tolerance in a library's own measure -> (B, n) complex voltages in pu, by the tables' buses."""


@dataclass(frozen=True, kw_only=True)
class FlowPeer:
    """One way to solve the batch."""

    library: str
    what: str
    """Name of the figure: library, method, tolerance and threads."""
    target_pu: float
    """|dV| that it was asked to keep."""
    error_pu: float
    """max |dV| that it has."""
    flows: int
    work: Callable[[], object]


def is_installed(module: str) -> bool:
    """Whether a package could be imported."""
    return importlib.util.find_spec(module) is not None


def exact_by_table(case: FlowCase) -> torch.Tensor:
    """(B, n) complex128 voltages by the tables' buses."""
    return case.exact()[:, case.bus_positions()]


def loosest(solve: Solve, exact: torch.Tensor, target_pu: float) -> tuple[float, float] | None:
    """The loosest tolerance at which voltages are within `target_pu`, and how far they are; None: at none of them.

    Args:
        solve: of one library.
        exact: (B, n) complex128 voltages in pu.
        target_pu: largest |dV| that is close enough.
    """
    for tolerance in TOLERANCES:
        error = largest_error(solve(tolerance), exact)
        if error <= target_pu:
            return tolerance, error
    return None


def too_far(library: str, what: str, targets_pu: Sequence[float]) -> str:
    """The line for a library whose voltages are not close enough at any tolerance."""
    targets = " or ".join(f"{target:.0e}" for target in targets_pu)
    return f"{library}: {what} does not come within {targets} pu of our voltages; not timed"
