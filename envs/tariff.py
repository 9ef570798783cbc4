"""Money as pure functions: energy settlement, demand charge, terminal rule.

Data flow: connection powers, prices -> $ of each party -> `rewards.py`. Parties: the feeder first (its load and all
losses), then the A microgrids. Powers in MW, import positive; B copies.
"""

import torch
from torch import Tensor

_TINY_MW = 1e-12


def utility_bill(p_mw: Tensor, price: Tensor, *, export_share: float, dt_h: float) -> Tensor:
    """$ for connections billed on their own: dt (lambda P+ - export_share lambda P-).

    On the head power this is the community's bill; on every party's power it is `settlement: individual`.

    Args:
        p_mw: (B,) or (B, 1 + A).
        price: (B,) lambda in $/MWh.
        export_share: export price / lambda.
        dt_h: length of the step.
    """
    price = price.view(-1, *[1] * (p_mw.ndim - 1))
    return dt_h * price * (p_mw.clamp(min=0.0) - export_share * (-p_mw).clamp(min=0.0))


def pool_settlement(p_mw: Tensor, price: Tensor, *, export_share: float, pool_share: float, dt_h: float) -> Tensor:
    """Split the head bill by a mid-market pool; the parts sum to `utility_bill` of the summed powers.

    What importers and exporters can match is traded at pool_share * lambda, pro rata; the rest at the retail
    and the export price.

    Args:
        p_mw: (B, 1 + A) power of each party.
        price: (B,) lambda in $/MWh.
        export_share: export price / lambda.
        pool_share: pool price / lambda.
        dt_h: length of the step.

    Returns:
        (B, 1 + A) $ each party pays.
    """
    imports, exports = p_mw.clamp(min=0.0), (-p_mw).clamp(min=0.0)
    total_import, total_export = imports.sum(-1, keepdim=True), exports.sum(-1, keepdim=True)
    matched = torch.minimum(total_import, total_export)
    bought = matched / total_import.clamp(min=_TINY_MW)  # share of each import that the pool covers
    sold = matched / total_export.clamp(min=_TINY_MW)
    import_price = bought * pool_share + (1 - bought)
    export_price = sold * pool_share + (1 - sold) * export_share
    return dt_h * price[:, None] * (imports * import_price - exports * export_price)


def demand_charge(p_mw: Tensor, head_p_mw: Tensor, peak_mw: Tensor, *, usd_per_mw: float) -> tuple[Tensor, Tensor]:
    """Charge for raising the day's peak, split by share of import.

    Args:
        p_mw: (B, 1 + A) power of each party.
        head_p_mw: (B,) power at the feeder head.
        peak_mw: (B,) highest head power of the day so far, 0 at its start.
        usd_per_mw: price of a MW of peak.

    Returns:
        (B, 1 + A) $ and the new peak (B,).
    """
    new_peak = torch.maximum(peak_mw, head_p_mw)
    imports = p_mw.clamp(min=0.0)
    share = imports / imports.sum(-1, keepdim=True).clamp(min=_TINY_MW)
    return usd_per_mw * (new_peak - peak_mw)[:, None] * share, new_peak


def terminal_cost(
    energy_mwh: Tensor, initial_energy_mwh: Tensor, highest_price: Tensor, *, factor: float, adder_usd_per_mwh: float
) -> Tensor:
    """(B, A) $ for the energy each battery misses at midnight against the day's start; a surplus earns nothing.

    A missing MWh costs factor * max(highest price of the day, 0) + adder: missing energy never earns money.
    """
    missing = (initial_energy_mwh - energy_mwh).clamp(min=0.0)
    return missing * shortfall_price(highest_price, factor=factor, adder_usd_per_mwh=adder_usd_per_mwh)[:, None]


def shortfall_price(highest_price: Tensor, *, factor: float, adder_usd_per_mwh: float) -> Tensor:
    """(B,) $ for a MWh that a battery misses at midnight, from the day's highest price (B,) in $/MWh."""
    return factor * highest_price.clamp(min=0.0) + adder_usd_per_mwh
