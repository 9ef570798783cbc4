import pytest
import torch
from torch import Tensor

from envs.composition import build_network
from envs.protocols import price_signal
from envs.protocols.price_signal import Multipliers, Violations
from envs.scenario import Scenario
from envs.tariff import pool_settlement, utility_bill
from tests.envs.protocols.parties import random_market, row

SHARES = {"export_share": 0.5, "dt_h": 1.0}
LIMITS = {"v_min_pu": 0.95, "v_max_pu": 1.05}
ALL_FINE = Violations(*torch.zeros(4, 1, 2, dtype=torch.float64).unbind(0))


def start(copies: int = 1, agents: int = 2) -> Multipliers:
    return price_signal.initial(copies, agents, device=torch.device("cpu"), dtype=torch.float64)


def test_no_vertical_protocol_means_the_tariff_alone() -> None:
    market = random_market(3)
    extra = price_signal.settlement(market.p_mw, price_signal.adder(start(len(market.price), 3)), dt_h=1.0)
    pool = pool_settlement(market.party_p_mw, market.price, pool_share=0.75, **SHARES)
    alone = utility_bill(market.party_p_mw, market.price, **SHARES)
    assert torch.equal(pool + extra, pool)
    assert torch.equal(alone + extra, alone)


def test_price_signal_default_is_lambda_and_stays_there_without_violations() -> None:
    multipliers = start()
    for _ in range(5):
        multipliers = price_signal.update(multipliers, ALL_FINE, dt_h=1.0)
        posted = price_signal.price(row(60.0)[0], price_signal.adder(multipliers))
        assert posted.tolist() == [[60.0, 60.0]]


@pytest.mark.parametrize(("limit", "sign"), [("v_low", 1.0), ("v_high", -1.0), ("l_import", 1.0), ("l_export", -1.0)])
def test_price_signal_updated_moves_by_exactly_step_times_violation(limit: str, sign: float) -> None:
    violations = ALL_FINE._replace(**{limit: row(0.02, 0.0)})
    multipliers = start()
    for rises in (1, 2, 3):
        multipliers = price_signal.update(multipliers, violations, dt_h=0.25, voltage_step=800.0, current_step=800.0)
        assert price_signal.adder(multipliers)[0].tolist() == pytest.approx([sign * rises * 0.25 * 800 * 0.02, 0.0])


def test_voltage_and_current_have_steps_of_their_own() -> None:
    both = ALL_FINE._replace(v_low=row(0.02, 0.0), l_import=row(0.0, 0.3))
    after = price_signal.update(start(), both, dt_h=1.0, voltage_step=1000.0, current_step=100.0)
    assert price_signal.adder(after)[0].tolist() == pytest.approx([20.0, 30.0])


def test_price_signal_updated_is_capped_above_and_below() -> None:
    worst = Violations(row(1.0, 0.0), row(0.0, 1.0), row(9.0, 0.0), row(0.0, 9.0))
    multipliers = start()
    for _ in range(3):
        multipliers = price_signal.update(multipliers, worst, dt_h=1.0, cap_usd_per_mwh=70.0)
    assert torch.stack(multipliers).max() == 70.0
    assert price_signal.adder(multipliers, cap_usd_per_mwh=70.0)[0].tolist() == [70.0, -70.0]


def test_the_adder_decays_once_the_violation_is_over_and_as_fast_in_quarter_hours() -> None:
    worst = ALL_FINE._replace(v_low=row(0.02, 0.01))
    high = price_signal.update(start(), worst, dt_h=1.0, voltage_step=1000.0)
    hourly = price_signal.update(high, ALL_FINE, dt_h=1.0, decay_per_h=0.8)
    quarters = high
    for _ in range(4):
        quarters = price_signal.update(quarters, ALL_FINE, dt_h=0.25, decay_per_h=0.8)
    assert hourly.v_low[0].tolist() == pytest.approx([0.8 * 20, 0.8 * 10])
    assert quarters.v_low[0].tolist() == pytest.approx(hourly.v_low[0].tolist())
    for _ in range(100):
        hourly = price_signal.update(hourly, ALL_FINE, dt_h=1.0)
    assert price_signal.adder(hourly).abs().max() < 1e-6


def test_the_adder_moves_money_between_the_parties_and_keeps_the_head_bill() -> None:
    market = random_market(4)
    adder = 200 * torch.rand(market.p_mw.shape, generator=torch.Generator().manual_seed(1)).double() - 100
    extra = price_signal.settlement(market.p_mw, adder, dt_h=0.25)
    assert torch.allclose(extra[:, 1:], 0.25 * adder * market.p_mw, rtol=0, atol=1e-12)
    parts = pool_settlement(market.party_p_mw, market.price, export_share=0.5, pool_share=0.75, dt_h=0.25) + extra
    head = utility_bill(market.party_p_mw.sum(-1), market.price, export_share=0.5, dt_h=0.25)
    assert (parts.sum(-1) - head).abs().max() < 1e-9
    assert extra.abs().max() > 1.0


def test_dearer_import_is_saved_by_importing_less_and_earned_by_exporting() -> None:
    adder = row(30.0, 30.0, -30.0)
    usd = price_signal.settlement(row(1.0, -0.5, 1.0), adder, dt_h=1.0)
    assert usd[0].tolist() == pytest.approx([15.0, 30.0, -15.0, -30.0])


def test_dual_ascent_ends_the_violation_of_a_load_that_answers_prices() -> None:
    # v^2 = 1 - 2 r p (LinDistFlow); the load falls by 0.01 MW for a $/MWh and starts 0.03 pu^2 too low
    multipliers, worst = start(agents=1), []
    for _ in range(200):
        p_mw = 1.625 - 0.01 * price_signal.adder(multipliers)
        v_pu = (1 - 0.08 * p_mw).sqrt()
        low = price_signal.measure_violations(
            v_pu, 0 * v_pu, p_mw, torch.ones(1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64), **LIMITS
        )
        worst.append(low.v_low.item())
        multipliers = price_signal.update(multipliers, low, dt_h=1.0, voltage_step=500.0, decay_per_h=1.0)
    assert worst[0] == pytest.approx(0.9025 - 0.87)
    assert worst[-1] < 1e-9
    assert price_signal.adder(multipliers).item() == pytest.approx((1.625 - 0.0975 / 0.08) / 0.01)


def test_violations_are_the_worst_watched_bus_and_signed_by_the_direction_of_flow() -> None:
    v_pu = row(1.06, 0.94, 0.93, 1.0)
    loading_squared, branch_p_mw = row(1.5, 1.21, 1.1, 0.9), row(2.0, 1.0, -1.0, -1.0)
    watched = torch.tensor([[0, 1], [1, 2], [3, 3]])
    seen = price_signal.measure_violations(v_pu, loading_squared, branch_p_mw, torch.tensor([True]), watched, **LIMITS)
    assert seen.v_low[0].tolist() == pytest.approx([0.9025 - 0.8836, 0.9025 - 0.8649, 0.0])
    assert seen.v_high[0].tolist() == pytest.approx([1.1236 - 1.1025, 0.0, 0.0])
    assert seen.l_import[0].tolist() == pytest.approx([0.5, 0.21, 0.0])
    assert seen.l_export[0].tolist() == pytest.approx([0.0, 0.1, 0.0])


def test_a_failed_flow_raises_no_price() -> None:
    v_pu, heavy = torch.full((2, 3), 0.9).double(), torch.full((2, 3), 2.0).double()
    converged, watched = torch.tensor([True, False]), torch.tensor([[0, 1, 2]])
    seen: Tensor = torch.stack(price_signal.measure_violations(v_pu, heavy, heavy, converged, watched, **LIMITS))
    assert seen[:, 0].any()
    assert not seen[:, 1].any()


def test_a_microgrid_watches_its_own_buses_and_its_path_to_the_slack(scenario: Scenario) -> None:
    net = build_network(scenario)
    watched = price_signal.watched_buses(net, tuple(scenario.microgrids))
    sets = [set(watched_row.tolist()) for watched_row in watched]
    for name, buses in zip(scenario.microgrids, sets, strict=True):
        areas = [net.areas[bus] for bus in buses]
        assert areas.count(name) == 12
        assert set(areas) == {name, "DSO"}
        assert 0 not in buses
    head = {net.position("DSO.816"), net.position("DSO.828"), net.position("DSO.830")}
    assert all(head <= buses for buses in sets)  # all hang on or behind 830
    assert net.position("DSO.836") not in sets[0]  # far behind MG1's connection
    assert net.position("DSO.840") in sets[2] - sets[1]
