"""Vertical protocol `price_signal`: the DSO posts lambda plus a congestion adder for each microgrid.

Data flow: settled flow -> `measure_violations` -> `update` (dual ascent) -> `price`, posted for the next step, which
the microgrids observe; then `settlement` of that step. The adder follows from the Lagrangian of the community's
problem (docs/protocols.md): under-voltage and overload by import make importing dearer, over-voltage and overload by
export make it cheaper.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from envs.power.network import Network
from envs.protocols.money import transfers

# strong and short: chosen by training agents that are not punished for violations (docs/results.md)
VOLTAGE_STEP_USD_PER_MWH_H = 10_000.0  # for a violation of 1 pu^2 over an hour: 0.949 pu instead of 0.95 adds 19 $/MWh
CURRENT_STEP_USD_PER_MWH_H = 1_000.0  # for (I/I_max)^2 - 1 = 1 over an hour: a loading of 1.01 adds 20 $/MWh
DECAY_PER_H = 0.5  # share of a multiplier that is left after an hour without its violation
CAP_USD_PER_MWH = 100.0  # of every multiplier and of the adder


class Violations(NamedTuple):
    """The worst excess over each limit at the buses and branches a microgrid shares in; all >= 0, (B, A)."""

    v_low: Tensor  # (v_min^2 - v^2)+ in pu^2
    v_high: Tensor  # (v^2 - v_max^2)+ in pu^2
    l_import: Tensor  # ((I/I_max)^2 - 1)+ where power flows away from the slack
    l_export: Tensor  # the same where power flows towards it


class Multipliers(NamedTuple):
    """Dual variables of the same four limits in $/MWh, all >= 0, (B, A); the state that a checkpoint holds."""

    v_low: Tensor
    v_high: Tensor
    l_import: Tensor
    l_export: Tensor


def watched_buses(net: Network, microgrids: Sequence[str]) -> Tensor:
    """(A, K) int64 buses each microgrid's exchange acts on: its own and those on the path to the slack, without it.

    A bus stands for the branch above it too. Shorter rows repeat their first entry, which changes no maximum.
    """
    own: dict[str, list[int]] = {name: [] for name in microgrids}
    for bus, area in enumerate(net.areas):
        if area in own:
            own[area].append(bus)
    parent = net.parent.tolist()
    rows: list[Tensor] = []
    for buses in own.values():
        watched = set[int]()
        for own_bus in buses:
            bus = own_bus
            while bus and bus not in watched:  # from here on the path is in it already
                watched.add(bus)
                bus = parent[bus]
        rows.append(torch.tensor(sorted(watched)))
    longest = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[:1].expand(longest - len(row))]) for row in rows])


def measure_violations(
    v_pu: Tensor,
    loading_squared: Tensor,
    branch_p_mw: Tensor,
    converged: Tensor,
    watched: Tensor,
    *,
    v_min_pu: float,
    v_max_pu: float,
) -> Violations:
    """The violations each microgrid shares in; none in a copy whose flow failed, which has no voltages to judge.

    Args:
        v_pu: (B, N) voltage magnitudes.
        loading_squared: (B, N) (I / I_max)^2 of the branch above each bus.
        branch_p_mw: (B, N) power of that branch, away from the slack positive; only its sign counts.
        converged: (B,) bool.
        watched: (A, K) from `watched_buses`.
        v_min_pu: voltage limit.
        v_max_pu: voltage limit.
    """
    excess = (loading_squared - 1.0).clamp(min=0.0)
    signed = torch.copysign(excess, branch_p_mw)
    by_bus = torch.stack([v_pu.square(), signed])  # (2, B, N)
    lowest, highest = by_bus.index_select(-1, watched.flatten()).unflatten(-1, watched.shape).aminmax(dim=-1)
    worst = torch.stack(
        [
            (v_min_pu**2 - lowest[0]).clamp(min=0.0),
            (highest[0] - v_max_pu**2).clamp(min=0.0),
            highest[1].clamp(min=0.0),
            (-lowest[1]).clamp(min=0.0),
        ]
    )  # (4, B, A)
    return Violations(*torch.where(converged[:, None], worst, 0.0).unbind(0))


def initial(copies: int, agents: int, *, device: torch.device, dtype: torch.dtype) -> Multipliers:
    """Multipliers at the start of an episode: 0, so that the posted price is lambda."""
    return Multipliers(*torch.zeros(4, copies, agents, device=device, dtype=dtype).unbind(0))


def update(
    multipliers: Multipliers,
    violations: Violations,
    *,
    dt_h: float,
    voltage_step: float = VOLTAGE_STEP_USD_PER_MWH_H,
    current_step: float = CURRENT_STEP_USD_PER_MWH_H,
    decay_per_h: float = DECAY_PER_H,
    cap_usd_per_mwh: float = CAP_USD_PER_MWH,
) -> Multipliers:
    """One step of projected dual ascent: mu' = clip(mu + dt step violation, 0, cap); without violation mu decay^dt.

    The decay takes the place of the negative part of the gradient: slack is always there, so plain ascent would
    forget a congestion within one step.

    Args:
        multipliers: before.
        violations: of the step that has been settled.
        dt_h: length of the step.
        voltage_step: $/MWh for 1 pu^2 over an hour, >= 0.
        current_step: $/MWh for (I/I_max)^2 - 1 = 1 over an hour, >= 0.
        decay_per_h: in [0, 1].
        cap_usd_per_mwh: largest multiplier, >= 0.
    """
    left = decay_per_h**dt_h

    def ascend(mu: Tensor, violation: Tensor, step: float) -> Tensor:
        moved = torch.where(violation > 0, mu + dt_h * step * violation, left * mu)
        return moved.clamp(0.0, cap_usd_per_mwh)

    steps = (voltage_step, voltage_step, current_step, current_step)
    return Multipliers(*(ascend(*each) for each in zip(multipliers, violations, steps, strict=True)))


def adder(multipliers: Multipliers, *, cap_usd_per_mwh: float = CAP_USD_PER_MWH) -> Tensor:
    """(B, A) congestion adder in $/MWh: mu_v_low - mu_v_high + mu_l_import - mu_l_export, within +-cap."""
    total = multipliers.v_low - multipliers.v_high + multipliers.l_import - multipliers.l_export
    return total.clamp(-cap_usd_per_mwh, cap_usd_per_mwh)


def price(price_usd_per_mwh: Tensor, adder_usd_per_mwh: Tensor) -> Tensor:
    """(B, A) what the DSO posts: lambda (B,) plus each microgrid's adder (B, A)."""
    return price_usd_per_mwh[:, None] + adder_usd_per_mwh


def settlement(p_mw: Tensor, adder_usd_per_mwh: Tensor, *, dt_h: float) -> Tensor:
    """(B, 1 + A) $ on top of the energy settlement: dt adder p from each microgrid to the feeder's party; sums to 0.

    Args:
        p_mw: (B, A) exchange of each microgrid.
        adder_usd_per_mwh: (B, A) that was posted for this step, before `update`.
        dt_h: length of the step.
    """
    return transfers(dt_h * adder_usd_per_mwh * p_mw)
