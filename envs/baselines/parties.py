"""Whose powers are netted before they are billed, so that a program's bill is never above the env's.

Data flow: `Scenario` -> `billed_parties` -> `distflow.py`, `copper_plate.py`. Dims: A microgrids, P parties.
"""

import numpy as np

from envs.baselines.tree import Array
from envs.scenario import Scenario


def trades(scenario: Scenario) -> bool:
    """Whether microgrids that are billed on their own can net their exchange by an internal market."""
    return scenario.settlement == "individual" and scenario.protocols.horizontal != "none"


def billed_parties(scenario: Scenario) -> Array:
    """(P, 1 + A) 0/1: the areas whose powers each party nets, the feeder first.

    A community is one party. Under individual bills each area is one; where microgrids trade, they are one party
    together, since the best market nets everything among them, and the feeder's own load takes no part. With a
    negative price nothing is traded, and every meter counts again: `lowest_billed_mw`, `Netting.meters_apart`.
    """
    areas = 1 + len(scenario.microgrids)
    if scenario.settlement == "community":
        return np.ones((1, areas))
    if trades(scenario):
        return np.stack([np.eye(areas)[0], 1 - np.eye(areas)[0]])
    return np.eye(areas)


def lowest_billed_mw(scenario: Scenario, lowest_mw: Array) -> Array:
    """(..., P) at most 0: the powers at which a negative price's line touches the bills of each party's meters.

    The bill of a party with one meter, f(p) = lambda p+ - share lambda p-, is above the line of slope lambda through
    f at its lowest power. Lines of several meters have the same slope, so they add up to one at the sum of the meters'
    own lowest powers; the lowest power of the sum would give a line above some of what they pay.

    Args:
        scenario: says whose meters.
        lowest_mw: (..., 1 + A) no area's power can fall below it.
    """
    parties = billed_parties(scenario)
    if scenario.settlement == "community":  # one meter, at the feeder's head
        return np.minimum(lowest_mw @ parties.T, 0.0)
    return np.minimum(lowest_mw, 0.0) @ parties.T
