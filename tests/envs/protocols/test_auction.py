import itertools
import random

import pytest
import torch
from torch import Tensor

from envs.protocols import price_signal
from envs.protocols.auction import Auction, clear, limits_from_action, marginal_limits
from envs.tariff import utility_bill
from tests.envs.protocols.parties import Market, random_market, row

RULE = {"export_share": 0.5, "dt_h": 0.25}
AGENTS = (1, 2, 3, 6)
FEES = (0.0, 3.0)


def auction(p_mw: Tensor, limit: Tensor, price: float, *, fee: float = 0.0) -> Auction:
    parties = torch.cat([row(1.0), p_mw], -1)
    return clear(parties, limit, row(price)[0], export_share=0.5, dt_h=1.0, fee_usd_per_mwh=fee)


def cleared(agents: int, fee: float) -> tuple[Market, Auction]:
    market = random_market(agents)
    return market, clear(*market, fee_usd_per_mwh=fee, **RULE)


def test_no_horizontal_protocol_and_an_auction_that_nobody_can_afford_cost_the_same() -> None:
    market, result = cleared(3, fee=1000.0)
    assert torch.equal(result.usd, utility_bill(market.party_p_mw, market.price, **RULE))
    assert not result.traded_mwh.any()
    assert not result.saving_usd.any()


def test_p2p_basic_trade_by_hand() -> None:
    # one buyer of 2 MW bids 90, one seller of 1 MW asks 60: 1 MWh at 75, fee 4 in halves, 1 MWh from the utility
    result = auction(row(2.0, -1.0), row(90.0, 60.0), 100.0, fee=4.0)
    assert result.traded_mwh[0].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert result.price_usd_per_mwh[0].tolist() == [77.0, 73.0]
    assert result.residual_p_mw[0].tolist() == [1.0, 0.0]
    assert result.usd[0].tolist() == [100.0 - 4.0, 77.0 + 100.0, -73.0]
    assert result.saving_usd[0].tolist() == [100.0 - 77.0, 73.0 - 50.0]


@pytest.mark.parametrize(
    ("p_mw", "limit"),
    [
        ((1.0, 2.0), (90.0, 80.0)),  # all buyers
        ((-1.0, -2.0), (60.0, 55.0)),  # all sellers
        ((1.0, -1.0), (60.0, 70.0)),  # the bid is below the offer
        ((1.0, -1.0), (70.0, 69.0)),  # the fee eats the gain
        ((0.0, -1.0), (90.0, 50.0)),  # nothing wanted
        ((0.0, 0.0), (90.0, 50.0)),
    ],
)
def test_p2p_without_trade_is_the_utilitys_bill(p_mw: tuple[float, ...], limit: tuple[float, ...]) -> None:
    result = auction(row(*p_mw), row(*limit), 100.0, fee=2.0)
    bill = utility_bill(row(1.0, *p_mw), row(100.0)[0], export_share=0.5, dt_h=1.0)
    assert not result.traded_mwh.any()
    assert not result.price_usd_per_mwh.any()
    assert torch.equal(result.usd, bill)
    assert torch.equal(result.residual_p_mw, row(*p_mw))


def test_p2p_with_one_agent_has_nobody_to_trade_with() -> None:
    market, result = cleared(1, fee=0.0)
    assert torch.equal(result.usd, utility_bill(market.party_p_mw, market.price, **RULE))


def test_p2p_with_several_agents_by_hand() -> None:
    # bids 95 (1 MW), 80 (2 MW), 60 (1 MW); offers 50 (1.5 MW), 70 (2 MW), import positive
    result = auction(row(1.0, -1.5, 2.0, -2.0, 1.0), row(95.0, 50.0, 80.0, 70.0, 60.0), 100.0)
    expected = torch.zeros(5, 5).double()
    expected[0, 1], expected[2, 1], expected[2, 3] = 1.0, 0.5, 1.5
    assert torch.allclose(result.traded_mwh[0], expected)
    assert result.price_usd_per_mwh[0].tolist() == pytest.approx(
        [72.5, (72.5 + 0.5 * 65) / 1.5, (0.5 * 65 + 1.5 * 75) / 2, 75.0, 0.0]
    )
    assert result.residual_p_mw[0].tolist() == pytest.approx([0.0, 0.0, 0.0, -0.5, 1.0])


def test_ties_share_in_proportion_to_what_they_want() -> None:
    result = auction(row(1.0, 3.0, -1.0), row(90.0, 90.0, 60.0), 100.0)
    assert result.bought_mwh[0].tolist() == pytest.approx([0.25, 0.75, 0.0])
    scarce_buyers = auction(row(-1.0, -3.0, 1.0), row(60.0, 60.0, 90.0), 100.0)
    assert scarce_buyers.sold_mwh[0].tolist() == pytest.approx([0.25, 0.75, 0.0])


def test_the_order_of_the_agents_does_not_matter() -> None:
    market = random_market(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    parties = torch.cat([market.party_p_mw[:, :1], market.p_mw[:, order]], -1)
    here = clear(*market, **RULE)
    there = clear(parties, market.limit[:, order], market.price, **RULE)
    assert (here.usd[:, 1:][:, order] - there.usd[:, 1:]).abs().max() < 1e-9
    assert (here.traded_mwh[:, order][:, :, order] - there.traded_mwh).abs().max() < 1e-12


@pytest.mark.parametrize("fee", FEES)
@pytest.mark.parametrize("agents", AGENTS)
def test_money_balances(agents: int, fee: float) -> None:
    market, result = cleared(agents, fee)
    parties = torch.cat([market.party_p_mw[:, :1], result.residual_p_mw], -1)
    utility = utility_bill(parties, market.price, **RULE)
    assert (result.usd.sum(-1) - utility.sum(-1)).abs().max() < 1e-9
    fees = utility[:, 0] - result.usd[:, 0]
    volume_mwh = result.bought_mwh.sum(-1)
    assert (fees - fee * volume_mwh).abs().max() < 1e-9
    # the gain against the utility is the width of its two prices, and it goes to the microgrids and the fee
    gain = (1 - RULE["export_share"]) * market.price * volume_mwh
    assert (result.saving_usd.sum(-1) + fees - gain).abs().max() < 1e-9


@pytest.mark.parametrize("fee", FEES)
@pytest.mark.parametrize("agents", AGENTS)
def test_energy_is_conserved_and_within_everyones_own_position(agents: int, fee: float) -> None:
    market, result = cleared(agents, fee)
    own_mwh = RULE["dt_h"] * market.p_mw
    assert (result.traded_mwh >= 0).all()
    assert (result.traded_mwh.sum(-1) - result.bought_mwh).abs().max() < 1e-12
    assert (result.bought_mwh.sum(-1) - result.sold_mwh.sum(-1)).abs().max() < 1e-12
    assert (result.bought_mwh <= own_mwh.clamp(min=0.0) + 1e-12).all()
    assert (result.sold_mwh <= (-own_mwh).clamp(min=0.0) + 1e-12).all()
    accounted = RULE["dt_h"] * result.residual_p_mw + result.bought_mwh - result.sold_mwh
    assert (accounted - own_mwh).abs().max() < 1e-12
    if agents > 1:
        assert result.traded_mwh.any()


@pytest.mark.parametrize("fee", FEES)
@pytest.mark.parametrize("agents", AGENTS)
def test_nobody_buys_above_or_sells_below_their_limit(agents: int, fee: float) -> None:
    market, result = cleared(agents, fee)
    bought, sold = result.bought_mwh > 0, result.sold_mwh > 0
    assert (result.price_usd_per_mwh <= market.limit + 1e-9)[bought].all()
    assert (result.price_usd_per_mwh >= market.limit - 1e-9)[sold].all()


@pytest.mark.parametrize("fee", FEES)
@pytest.mark.parametrize("agents", AGENTS)
def test_nobody_is_worse_off_than_without_trading(agents: int, fee: float) -> None:
    market, result = cleared(agents, fee)
    alone = utility_bill(market.party_p_mw, market.price, **RULE)
    assert (result.usd <= alone + 1e-9).all()
    assert torch.allclose(result.saving_usd, (alone - result.usd)[:, 1:], rtol=0, atol=1e-9)
    if agents > 1:
        assert result.saving_usd.max() > 1.0


def test_nothing_is_traded_at_negative_prices() -> None:
    # the utility pays 20 for a MWh consumed and charges 10 for a MWh fed in: together the pair would earn less
    result = auction(row(1.0, -1.0), row(5.0, -30.0), -20.0)
    assert not result.traded_mwh.any()
    assert result.usd[0].tolist() == [-20.0, -20.0, 10.0]


def small_market(seed: int) -> Market:
    draw = random.Random(seed)
    p_mw = row(1.0, *(draw.randint(-2, 2) for _ in range(5)))
    return Market(p_mw, row(*(draw.randrange(50, 101, 5) for _ in range(5))), row(100.0)[0])


def units(market: Market, side: int) -> list[float]:
    pairs = zip(market.p_mw[0].tolist(), market.limit[0].tolist(), strict=True)
    return [limit for p_mw, limit in pairs for _ in range(max(round(side * p_mw), 0))]


@pytest.mark.parametrize("fee", [0.0, 10.0])
def test_total_trade_is_maximal(fee: float) -> None:
    """Brute force: the gain over all pairings of single MWh, the volume over all prices for everybody."""
    volumes = 0.0
    for seed in range(150):
        market = small_market(seed)
        result = clear(*market, export_share=0.5, dt_h=1.0, fee_usd_per_mwh=fee)
        bids, offers = units(market, 1), units(market, -1)
        few, many = sorted((bids, offers), key=len)
        sign = 1 if few is bids else -1
        gain = max(
            sum(max(sign * (a - b) - fee, 0.0) for a, b in zip(few, chosen, strict=True))
            for chosen in itertools.permutations(many, len(few))
        )
        volume = max(
            min(sum(bid >= at + fee / 2 for bid in bids), sum(offer <= at - fee / 2 for offer in offers))
            for at in torch.arange(50.0, 101.0, 2.5).tolist()
        )
        gap = market.limit[:, :, None] - market.limit[:, None, :] - fee
        assert (gap * result.traded_mwh).sum().item() == pytest.approx(gain)
        assert result.traded_mwh.sum().item() == pytest.approx(volume)
        volumes += volume
    assert volumes > 100


def test_limits_from_an_action_span_the_utilitys_prices() -> None:
    limit = limits_from_action(row(-1.0, 0.0, 1.0, 7.0), row(80.0)[0], export_share=0.5)
    assert limit[0].tolist() == [40.0, 60.0, 80.0, 80.0]
    upside_down = limits_from_action(row(-1.0, 1.0), row(-20.0)[0], export_share=0.5)
    assert upside_down[0].tolist() == [-10.0, -20.0]


def test_marginal_limits_by_hand() -> None:
    limit = marginal_limits(
        row(1.0, 1.0, 1.0, -1.0, -1.0, -1.0),  # three buyers, three sellers
        row(0.1, 0.5, 0.0, 0.1, 0.0, 0.5),
        row(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)[0],
        row(100.0)[0],
        cost_quadratic=row(100.0, 10.0, 100.0, 100.0, 100.0, 100.0)[0],
        cost_linear=row(50.0, 50.0, 60.0, 50.0, 60.0, 50.0)[0],
        export_share=0.5,
    )
    # 2 a P + b; at full output, lambda; b, as it can start; 2 a P + b saved; nothing to save; 150 clipped to lambda
    assert limit[0].tolist() == [70.0, 100.0, 60.0, 70.0, 50.0, 100.0]


def test_a_vertical_and_a_horizontal_protocol_act_together() -> None:
    market, result = cleared(3, fee=2.0)
    adder = 40 * torch.rand(market.p_mw.shape, generator=torch.Generator().manual_seed(2)).double() - 20
    extra = price_signal.settlement(market.p_mw, adder, dt_h=RULE["dt_h"])
    parties = torch.cat([market.party_p_mw[:, :1], result.residual_p_mw], -1)
    utility = utility_bill(parties, market.price, **RULE)
    assert ((result.usd + extra).sum(-1) - utility.sum(-1)).abs().max() < 1e-9
    # the congestion is paid on the physical exchange: trading neither avoids nor doubles it
    alone = utility_bill(market.p_mw, market.price, **RULE) + extra[:, 1:]
    assert ((result.usd + extra)[:, 1:] <= alone + 1e-9).all()
