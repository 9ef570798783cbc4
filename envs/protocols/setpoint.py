"""Vertical protocol `setpoint`: the DSO posts an exchange target or an import limit for each microgrid.

Data flow: scenario -> `target_points` or `capacity_points` -> `check_reachable` at load; every step `deviation`
(observed) and `settlement` (priced). A set-point is a band [low, high] of exchange, import positive: a target is a
band of one value, an import limit has no lower end, an absent set-point has no end at all. Nothing else distinguishes
them, so no step looks at what kind it is.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from envs.protocols.money import check_names, transfers

PRICE_USD_PER_MWH = 50.0  # of a MWh outside the band, at full priority: about the mean of lambda


class SetPoints(NamedTuple):
    """Bands of exchange in MW and their priority, each (A,) or (B, A)."""

    low_mw: Tensor  # -inf: no lower end
    high_mw: Tensor  # inf: no upper end
    priority: Tensor  # in [0, 1], multiplies the price


class ExchangeRange(NamedTuple):
    """What each microgrid can exchange at all, without losses, (A,) MW, import positive."""

    low_mw: Tensor
    high_mw: Tensor


def target_points(
    agents: Sequence[str], target_mw: Mapping[str, float | None], priority: Mapping[str, float] | None = None
) -> SetPoints:
    """Targets from the scenario: p is to equal the target; microgrids with None or not named have none.

    Args:
        agents: names of the microgrids.
        target_mw: microgrid -> exchange.
        priority: microgrid -> share of the price in [0, 1]; those not named have 1.

    Raises:
        ValueError: an unknown microgrid, a priority outside [0, 1], a target that is not finite.
    """
    check_names("protocols.setpoint.target_mw", target_mw, agents)
    given = [target_mw.get(name) for name in agents]
    for name, value in zip(agents, given, strict=True):
        if value is not None and not -inf < value < inf:
            raise ValueError(f"protocols.setpoint.target_mw.{name} must be a finite number of MW or null, got {value}")
    low = torch.tensor([-inf if value is None else value for value in given], dtype=torch.float64)
    high = torch.tensor([inf if value is None else value for value in given], dtype=torch.float64)
    return SetPoints(low, high, _priorities(agents, priority or {}))


def capacity_points(
    agents: Sequence[str],
    capacity_mw: float,
    share: Mapping[str, float] | None = None,
    priority: Mapping[str, float] | None = None,
) -> SetPoints:
    """Import limits from the feeder's capacity: p is to stay at or below capacity_mw * share.

    Args:
        agents: names of the microgrids.
        capacity_mw: of the feeder, for all microgrids together.
        share: microgrid -> share of it; None: equal shares. Microgrids not named have no limit.
        priority: microgrid -> share of the price in [0, 1]; those not named have 1.

    Raises:
        ValueError: a capacity that is not positive, an unknown microgrid, shares that are negative or sum to more
            than 1, a priority outside [0, 1].
    """
    if not 0 < capacity_mw < inf:
        raise ValueError(f"protocols.setpoint.capacity_mw must be positive, got {capacity_mw}")
    share = dict.fromkeys(agents, 1 / len(agents)) if share is None else share
    check_names("protocols.setpoint.share", share, agents)
    for name, value in share.items():
        if not value >= 0:
            raise ValueError(f"protocols.setpoint.share.{name} must not be negative, got {value}")
    if not (total := sum(share.values())) <= 1 + 1e-9:
        raise ValueError(f"the values of protocols.setpoint.share must sum to at most 1, got {total:g}; lower them")
    high = torch.tensor([capacity_mw * share.get(name, inf) for name in agents], dtype=torch.float64)
    return SetPoints(torch.full_like(high, -inf), high, _priorities(agents, priority or {}))


def exchange_range(
    load_mw: tuple[Tensor, Tensor],
    *,
    battery_p_max_mw: Tensor,
    generator_p_max_mw: Tensor,
    renewable_p_max_mw: Tensor,
) -> ExchangeRange:
    """Widest range of exchange: full export at the lowest load, full charging at the highest; losses left out.

    Args:
        load_mw: lowest and highest load of each microgrid over the data, (A,) each.
        battery_p_max_mw: (A,) largest charge and discharge power.
        generator_p_max_mw: (A,) generator's maximum.
        renewable_p_max_mw: (A,) PV and wind together.
    """
    lowest, highest = load_mw
    return ExchangeRange(
        lowest - battery_p_max_mw - generator_p_max_mw - renewable_p_max_mw, highest + battery_p_max_mw
    )


def check_reachable(agents: Sequence[str], points: SetPoints, reach: ExchangeRange) -> None:
    """Refuse a band that a microgrid can never be in.

    Args:
        agents: names of the microgrids.
        points: (A,) bands.
        reach: of the same microgrids.

    Raises:
        ValueError: names the microgrid, what it can do and the value.
    """
    columns = (tensor.tolist() for tensor in (points.low_mw, points.high_mw, *reach))
    for name, low, high, lowest, highest in zip(agents, *columns, strict=True):
        if low > highest or high < lowest:
            key, value = (f"target_mw.{name}", low) if low == high else (f"capacity_mw * share.{name}", high)
            raise ValueError(
                f"protocols.setpoint.{key} is an unreachable set-point: load, battery, generator, PV and wind of "
                f"{name} allow {lowest:.3f} to {highest:.3f} MW (import positive), got {value:.3f} MW; "
                "choose a value in this range"
            )


def deviation(p_mw: Tensor, points: SetPoints) -> Tensor:
    """(B, A) MW by which the exchange (B, A) is above (positive) or below (negative) its band; 0 without set-point."""
    return (p_mw - points.high_mw).clamp(min=0.0) - (points.low_mw - p_mw).clamp(min=0.0)


def settlement(p_mw: Tensor, points: SetPoints, *, dt_h: float, price_usd_per_mwh: float = PRICE_USD_PER_MWH) -> Tensor:
    """(B, 1 + A) $ on top of the energy settlement: dt price priority |deviation| to the feeder's party; sums to 0.

    Args:
        p_mw: (B, A) exchange of each microgrid.
        points: the bands, (A,) or (B, A).
        dt_h: length of the step.
        price_usd_per_mwh: of a MWh outside the band, >= 0.
    """
    return transfers(dt_h * price_usd_per_mwh * points.priority * deviation(p_mw, points).abs())


def _priorities(agents: Sequence[str], priority: Mapping[str, float]) -> Tensor:
    check_names("protocols.setpoint.priority", priority, agents)
    for name, value in priority.items():
        if not 0 <= value <= 1:
            raise ValueError(f"protocols.setpoint.priority.{name} must be in [0, 1], got {value}")
    return torch.tensor([priority.get(name, 1.0) for name in agents], dtype=torch.float64)
