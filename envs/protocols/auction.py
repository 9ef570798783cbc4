"""Horizontal protocol `p2p`: a double auction among the microgrids in every step, under `settlement: individual`.

Data flow: settled exchange, limit prices (`marginal_limits` or `limits_from_action`) -> `clear` -> money of each
party. The auction is settled after the fact on measured exchange: it moves money, not power. Buyers stand by bid from
high to low along an axis of MW, sellers by offer from low to high along the same axis; where a buyer's and a seller's
stretch overlap, and the bid covers the offer and the fee, they trade. Nothing is sorted: how much stands ahead of an
agent is a sum over comparisons, which keeps every agent in its place and shares ties pro rata.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from envs.protocols.consensus import marginal_cost
from envs.protocols.money import between, generator_marginal_cost, utility_prices
from envs.tariff import utility_bill

FEE_USD_PER_MWH = 2.0  # half from the buyer, half from the seller


class Auction(NamedTuple):
    """What one auction did. Parties are the feeder, then the microgrids."""

    traded_mwh: Tensor  # (B, A, A) [buyer, seller]
    bought_mwh: Tensor  # (B, A)
    sold_mwh: Tensor  # (B, A)
    price_usd_per_mwh: Tensor  # (B, A) mean price of its trades, its half of the fee included; 0 without trade
    residual_p_mw: Tensor  # (B, A) exchange that the utility bills
    usd: Tensor  # (B, 1 + A) each party pays: trades, fee and the utility's bill for the rest
    saving_usd: Tensor  # (B, A) against the utility's bill without trading, >= 0


def limits_from_action(action: Tensor, price: Tensor, *, export_share: float) -> Tensor:
    """(B, A) limit prices in $/MWh from an action (B, A): -1 is the export price, 1 the import price.

    Args:
        action: values beyond [-1, 1] are clipped.
        price: (B,) lambda in $/MWh.
        export_share: export price / lambda.
    """
    export_price, import_price = utility_prices(price, export_share)
    return export_price + (action.clamp(-1.0, 1.0) + 1) / 2 * (import_price - export_price)


def marginal_limits(
    p_mw: Tensor,
    generator_p_mw: Tensor,
    generator_p_max_mw: Tensor,
    price: Tensor,
    *,
    cost_quadratic: Tensor,
    cost_linear: Tensor,
    export_share: float,
) -> Tensor:
    """(B, A) limit prices in $/MWh from marginal costs, clipped into the utility's two prices.

    A buyer values a MWh at what its own generator would cost, at the import price if that is at its maximum. A seller
    asks what its running generator would save, the export price if none runs.

    Args:
        p_mw: (B, A) exchange; its sign says who buys.
        generator_p_mw: (B, A) output.
        generator_p_max_mw: (A,) largest output.
        price: (B,) lambda in $/MWh.
        cost_quadratic: (A,) $/(MW^2 h).
        cost_linear: (A,) $/MWh.
        export_share: export price / lambda.
    """
    export_price, import_price = utility_prices(price, export_share)
    cost = between(generator_marginal_cost(generator_p_mw, cost_quadratic, cost_linear), export_price, import_price)
    ask = torch.where(generator_p_mw > 0, cost, export_price)
    bid = marginal_cost(
        generator_p_mw,
        generator_p_max_mw,
        price,
        cost_quadratic=cost_quadratic,
        cost_linear=cost_linear,
        export_share=export_share,
    )
    return torch.where(p_mw > 0, bid, ask)


def match(buy_mw: Tensor, sell_mw: Tensor, bid: Tensor, offer: Tensor, *, fee_usd_per_mwh: float) -> Tensor:
    """(B, A, A) MW from seller (last axis) to buyer, for the largest total gain from trade.

    With b(i) the MW of better bids, equal bids share a stretch [b, b + level] in proportion to their quantity; sellers
    alike. A pair trades what its two stretches overlap if bid - offer >= fee.

    Args:
        buy_mw: (B, A) wanted, >= 0.
        sell_mw: (B, A) on offer, >= 0.
        bid: (B, A) $/MWh of the buyers.
        offer: (B, A) $/MWh of the sellers.
        fee_usd_per_mwh: of a traded MWh, >= 0.
    """
    buy_start, buy_level = _stretch(buy_mw, bid[:, None, :] - bid[:, :, None])
    sell_start, sell_level = _stretch(sell_mw, offer[:, :, None] - offer[:, None, :])
    start = torch.maximum(buy_start[:, :, None], sell_start[:, None, :])
    end = torch.minimum((buy_start + buy_level)[:, :, None], (sell_start + sell_level)[:, None, :])
    overlap = (end - start).clamp(min=0.0)
    of_buyer, of_seller = _share(buy_mw, buy_level), _share(sell_mw, sell_level)
    worth_it = bid[:, :, None] - offer[:, None, :] >= fee_usd_per_mwh
    return worth_it * overlap * of_buyer[:, :, None] * of_seller[:, None, :]


def clear(
    party_p_mw: Tensor,
    limit: Tensor,
    price: Tensor,
    *,
    export_share: float,
    dt_h: float,
    fee_usd_per_mwh: float = FEE_USD_PER_MWH,
) -> Auction:
    """Match, price and settle one step.

    Bids above the import price and offers below the export price are clipped to it: nobody can trade to its own loss
    against the utility. A pair trades at the midpoint of bid and offer; each side pays half of the fee on top. As
    bid - offer covers the fee, both stay within their limits.

    Args:
        party_p_mw: (B, 1 + A) power of each party; the feeder's (first) takes no part and gets the fees.
        limit: (B, A) $/MWh, the most a buyer pays or the least a seller takes, fee included.
        price: (B,) lambda in $/MWh.
        export_share: export price / lambda.
        dt_h: length of the step.
        fee_usd_per_mwh: of a traded MWh, >= 0.
    """
    p_mw = party_p_mw[:, 1:]
    export_price, import_price = utility_prices(price, export_share)
    bid, offer = torch.minimum(limit, import_price), torch.maximum(limit, export_price)
    traded_mw = match(p_mw.clamp(min=0.0), (-p_mw).clamp(min=0.0), bid, offer, fee_usd_per_mwh=fee_usd_per_mwh)
    bought_mw, sold_mw = traded_mw.sum(-1), traded_mw.sum(-2)
    bought_mwh, sold_mwh = dt_h * bought_mw, dt_h * sold_mw
    at_midpoint_usd = dt_h * traded_mw * (bid[:, :, None] + offer[:, None, :]) / 2
    paid_usd = at_midpoint_usd.sum(-1) + fee_usd_per_mwh / 2 * bought_mwh
    received_usd = at_midpoint_usd.sum(-2) - fee_usd_per_mwh / 2 * sold_mwh
    volume_mwh = bought_mwh + sold_mwh  # one of the two is 0
    fees_usd = fee_usd_per_mwh * bought_mwh.sum(-1, keepdim=True)
    residual_p_mw = p_mw - bought_mw + sold_mw
    residual = torch.cat([party_p_mw[:, :1], residual_p_mw], -1)
    usd = utility_bill(residual, price, export_share=export_share, dt_h=dt_h)
    usd = usd + torch.cat([-fees_usd, paid_usd - received_usd], -1)
    alone_usd = utility_bill(p_mw, price, export_share=export_share, dt_h=dt_h)
    return Auction(
        traded_mwh=dt_h * traded_mw,
        bought_mwh=bought_mwh,
        sold_mwh=sold_mwh,
        price_usd_per_mwh=torch.where(volume_mwh > 0, (paid_usd + received_usd) / volume_mwh, 0.0),
        residual_p_mw=residual_p_mw,
        usd=usd,
        saving_usd=alone_usd - usd[:, 1:],
    )


def _stretch(quantity_mw: Tensor, others_lead: Tensor) -> tuple[Tensor, Tensor]:
    """MW ahead of each agent, and MW level with it (itself included), (B, A) each.

    `others_lead` (B, A, A) [agent, other] is positive where the other comes first and 0 where both are level.
    """
    ahead, level = (others_lead > 0).to(quantity_mw), (others_lead == 0).to(quantity_mw)
    quantity_mw = quantity_mw[:, :, None]
    return (ahead @ quantity_mw)[..., 0], (level @ quantity_mw)[..., 0]


def _share(quantity_mw: Tensor, level_mw: Tensor) -> Tensor:
    """(B, A) share of a level's stretch; 0 where nobody wants anything."""
    return torch.where(level_mw > 0, quantity_mw / level_mw, 0.0)
