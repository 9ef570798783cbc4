"""Reactive power of PV and wind plants. Pure functions; Q > 0 injects. All tensors (B, P) or (P,) of P plants."""

from typing import NamedTuple

import torch
from torch import Tensor


class Inverters(NamedTuple):
    """Parameters of the plants, each (P,) but the droop's; s_max 0 where a plant has no inverter."""

    s_max_mva: Tensor
    by_action: Tensor  # bool
    by_voltage: Tensor  # bool
    q_per_p: Tensor  # of a constant power factor, signed; 0 otherwise
    v_pu: Tensor  # (4, P) points of the droop
    q_share: Tensor  # (4, P)


def headroom(s_max_mva: Tensor, p_mw: Tensor) -> Tensor:
    """Largest |Q| in MVAr: sqrt(S^2 - P^2), real power first."""
    return (s_max_mva.square() - p_mw.square()).clamp(min=0.0).sqrt()


def droop(v_pu: Tensor, points: Inverters) -> Tensor:
    """Q as a share of the apparent power: straight between four points, constant beyond the outer ones."""
    rise, width = points.q_share.diff(dim=0), points.v_pu.diff(dim=0)
    share = points.q_share[0].expand_as(v_pu)
    for k in range(len(width)):
        share = share + rise[k] / width[k] * torch.minimum((v_pu - points.v_pu[k]).clamp(min=0.0), width[k])
    return share


def reactive_power(p_mw: Tensor, action: Tensor, v_pu: Tensor | None, plants: Inverters) -> tuple[Tensor, Tensor]:
    """What is asked for and what is injected, MVAr.

    Args:
        p_mw: applied real power.
        action: in [-1, 1], of the plants in mode `action`: a share of the headroom.
        v_pu: at the plants in the step before; None: not known yet, so no droop.
        plants: parameters.
    """
    left = headroom(plants.s_max_mva, p_mw)
    asked = plants.q_per_p * p_mw
    if v_pu is not None:
        asked = torch.where(plants.by_voltage, droop(v_pu, plants) * plants.s_max_mva, asked)
    asked = torch.where(plants.by_action, action * plants.s_max_mva, asked)
    injected = torch.minimum(torch.maximum(asked, -left), left)
    return asked, torch.where(plants.by_action, action * left, injected)
