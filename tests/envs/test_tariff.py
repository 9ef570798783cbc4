import pytest
import torch
from torch import Tensor

from envs.rewards import Ledger
from envs.tariff import demand_charge, pool_settlement, terminal_cost, utility_bill

SHARES = {"export_share": 0.5, "pool_share": 0.75, "dt_h": 1.0}


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def random_parties(copies: int = 4000) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    p_mw = 4 * torch.rand(copies, 4, generator=rng, dtype=torch.float64) - 2
    p_mw[: copies // 4] = p_mw[: copies // 4].abs()
    p_mw[copies // 4 : copies // 2] = -p_mw[copies // 4 : copies // 2].abs()
    p_mw[-1], p_mw[-2, 1:] = 0.0, 0.0
    return p_mw, 250 * torch.rand(copies, generator=rng, dtype=torch.float64)


def test_pool_shares_sum_to_the_head_bill() -> None:
    p_mw, price = random_parties()
    parts = pool_settlement(p_mw, price, **SHARES)
    bill = utility_bill(p_mw.sum(-1), price, export_share=0.5, dt_h=1.0)
    assert (parts.sum(-1) - bill).abs().max() < 1e-9
    assert not parts[-1].any()


def test_pool_never_harms_a_party() -> None:
    p_mw, price = random_parties()
    alone = utility_bill(p_mw, price, export_share=0.5, dt_h=1.0)
    assert (pool_settlement(p_mw, price, **SHARES) <= alone + 1e-12).all()


@pytest.mark.parametrize(
    ("p_mw", "expected_usd"),
    [
        # buyers 2 + 1, seller 1: each buyer covers a third at 75, the rest at 100; the seller gets 75
        ((2.0, 1.0, -1.0, 0.0), (2 * (25 + 200 / 3), 25 + 200 / 3, -75.0, 0.0)),
        # buyer 1, sellers 3 + 1: a quarter of each sale at 75, the rest at 50
        ((1.0, -3.0, -1.0, 0.0), (75.0, -3 * 56.25, -56.25, 0.0)),
        ((1.0, 2.0, 0.0, 0.5), (100.0, 200.0, 0.0, 50.0)),
        ((-1.0, -2.0, 0.0, 0.0), (-50.0, -100.0, 0.0, 0.0)),
        ((1.0, -1.0, 0.0, 0.0), (75.0, -75.0, 0.0, 0.0)),
    ],
)
def test_pool_by_hand(p_mw: tuple[float, ...], expected_usd: tuple[float, ...]) -> None:
    parts = pool_settlement(row(*p_mw), torch.tensor([100.0]).double(), **SHARES)
    assert parts[0].tolist() == pytest.approx(expected_usd)


def test_utility_bill_buys_at_the_price_and_sells_at_half() -> None:
    price = torch.tensor([80.0, 20.0]).double()
    head = utility_bill(torch.tensor([2.0, -3.0]).double(), price, export_share=0.5, dt_h=0.25)
    assert head.tolist() == pytest.approx([40.0, -7.5])
    each = utility_bill(row(2.0, -3.0), price[:1], export_share=0.5, dt_h=1.0)
    assert each[0].tolist() == pytest.approx([160.0, -120.0])


def test_demand_charge_telescopes_to_the_highest_head_power() -> None:
    peak, charged = torch.zeros(500, dtype=torch.float64), torch.zeros(500, 4, dtype=torch.float64)
    highest = peak.clone()
    for t in range(24):
        p_mw = 3 * torch.rand(500, 4, generator=torch.Generator().manual_seed(t), dtype=torch.float64) - 1.2
        head = p_mw.sum(-1)
        usd, peak = demand_charge(p_mw, head, peak, usd_per_mw=100.0)
        assert (usd >= 0).all()
        assert not usd[p_mw <= 0].any()  # who does not import pays nothing
        charged += usd
        highest = torch.maximum(highest, head)
    assert (charged.sum(-1) - 100 * highest).abs().max() < 1e-9
    assert torch.equal(peak, highest)


def test_demand_charge_is_split_by_share_of_import() -> None:
    usd, peak = demand_charge(row(1.0, 3.0, -2.0), row(2.0)[0], row(0.5)[0], usd_per_mw=100.0)
    assert usd[0].tolist() == pytest.approx([37.5, 112.5, 0.0])
    assert peak.item() == 2.0


def test_a_missing_mwh_costs_more_than_the_dearest_hour_and_a_surplus_earns_nothing() -> None:
    usd = terminal_cost(row(0.7, 1.0, 1.8), row(1.0, 1.0, 1.0), row(90.0)[0], factor=1.1, adder_usd_per_mwh=10.0)
    assert usd[0].tolist() == pytest.approx([0.3 * (1.1 * 90 + 10), 0.0, 0.0])


def test_missing_energy_costs_money_on_a_day_of_negative_prices() -> None:
    usd = terminal_cost(row(0.5), row(1.0), row(-90.0)[0], factor=1.1, adder_usd_per_mwh=10.0)
    assert usd.item() == pytest.approx(0.5 * 10.0)


def test_rewards_split_the_ledger_by_hand() -> None:
    ledger = Ledger(
        energy_usd=row(30, 10, 20, -5),
        demand_usd=row(3, 1, 2, 0),
        safety_usd=row(9, 0, 6, 0),
        generator_usd=row(4, 5, 6),
        terminal_usd=row(0, 7, 0),
        commitment_usd=row(2, 0, 0),
        degradation_usd=row(0, 3, 0),
        shedding_usd=row(0, 0, 8),
        failure_usd=row(0)[0],
        switching_usd=row(3)[0],
        lost_load_usd=row(6, 0, 0, 4),
    )
    assert ledger.cost().item() == 55 + 6 + 15 + 7 + 2 + 3 + 8 + 3 + 10
    assert ledger.penalty().item() == 15
    common = (30 + 3 + 9 + 3 + 6) / 3
    expected = [-(10 + 1 + 4 + 2 + common), -(20 + 2 + 6 + 5 + 7 + 3 + common), -(-5 + 6 + 8 + 4 + common)]
    assert ledger.rewards(scale_usd=1.0, penalty_weight=1.0)[0].tolist() == pytest.approx(expected)
    weighted = ledger.rewards(scale_usd=100.0, penalty_weight=0.5)[0].tolist()
    common = (30 + 3 + 4.5 + 3 + 6) / 3
    assert weighted[1] == pytest.approx(-(20 + 2 + 3 + 5 + 7 + 3 + common) / 100)
    with_dso = ledger.rewards(scale_usd=1.0, penalty_weight=1.0, dso_is_agent=True)[0].tolist()
    assert with_dso == pytest.approx(
        [-(10 + 1 + 4 + 2), -(20 + 2 + 6 + 5 + 7 + 3), -(-5 + 6 + 8 + 4), -(30 + 3 + 9 + 3 + 6)]
    )
