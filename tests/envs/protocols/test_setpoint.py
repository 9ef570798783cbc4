from math import inf

import pytest
import torch

from envs.protocols import setpoint
from envs.tariff import pool_settlement, utility_bill
from tests.envs.protocols.parties import random_market, row

AGENTS = ("MG1", "MG2", "MG3")
REACH = setpoint.exchange_range(
    (row(0.1, 0.2, 0.3)[0], row(0.9, 1.0, 1.1)[0]),
    battery_p_max_mw=row(0.5, 0.5, 0.0)[0],
    generator_p_max_mw=row(0.6, 0.0, 0.5)[0],
    renewable_p_max_mw=row(0.4, 0.3, 0.2)[0],
)


def test_setpoint_none_prices_nothing_and_leaves_the_tariff_alone() -> None:
    market, nothing = random_market(3), setpoint.target_points(AGENTS, {"MG1": None})
    extra = setpoint.settlement(market.p_mw, nothing, dt_h=1.0)
    pool = pool_settlement(market.party_p_mw, market.price, export_share=0.5, pool_share=0.75, dt_h=1.0)
    assert torch.equal(pool + extra, pool)
    assert not setpoint.deviation(market.p_mw, nothing).any()


def test_setpoint_full_prices_the_distance_from_the_target_on_both_sides() -> None:
    points = setpoint.target_points(AGENTS, {"MG1": 0.5, "MG2": 0.5, "MG3": -0.2})
    p_mw = row(0.9, 0.2, -0.2)
    assert setpoint.deviation(p_mw, points)[0].tolist() == pytest.approx([0.4, -0.3, 0.0])
    usd = setpoint.settlement(p_mw, points, dt_h=0.25, price_usd_per_mwh=80.0)
    assert usd[0].tolist() == pytest.approx([-0.25 * 80 * 0.7, 0.25 * 80 * 0.4, 0.25 * 80 * 0.3, 0.0])


def test_setpoint_partial_prices_only_those_with_a_target_and_by_their_priority() -> None:
    points = setpoint.target_points(AGENTS, {"MG1": 0.0, "MG2": None, "MG3": 0.0}, {"MG3": 0.25})
    usd = setpoint.settlement(row(1.0, 1.0, 1.0), points, dt_h=1.0, price_usd_per_mwh=40.0)
    assert usd[0].tolist() == pytest.approx([-50.0, 40.0, 0.0, 10.0])


def test_shares_of_the_capacity_are_import_limits() -> None:
    points = setpoint.capacity_points(AGENTS, 2.0, {"MG1": 0.5, "MG2": 0.3})
    assert points.high_mw.tolist() == pytest.approx([1.0, 0.6, inf])
    assert setpoint.deviation(row(1.2, 0.5, 9.0), points)[0].tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert not setpoint.deviation(row(-5.0, -5.0, -5.0), points).any()  # less import is never priced
    equal = setpoint.capacity_points(AGENTS, 1.5)
    assert equal.high_mw.tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_the_price_of_tracking_keeps_the_head_bill() -> None:
    market = random_market(3)
    points = setpoint.target_points(AGENTS, {"MG1": 0.3, "MG3": -0.7}, {"MG1": 0.5})
    extra = setpoint.settlement(market.p_mw, points, dt_h=1.0)
    parts = pool_settlement(market.party_p_mw, market.price, export_share=0.5, pool_share=0.75, dt_h=1.0) + extra
    head = utility_bill(market.party_p_mw.sum(-1), market.price, export_share=0.5, dt_h=1.0)
    assert (parts.sum(-1) - head).abs().max() < 1e-9
    assert (extra[:, 1:] >= 0).all()
    assert extra[:, 1:].max() > 10


def test_targets_of_every_copy_may_differ() -> None:
    target = row(0.0, 0.5).T.expand(2, 3)
    points = setpoint.SetPoints(target, target, torch.ones(2, 3, dtype=torch.float64))
    assert setpoint.deviation(row(0.5, 0.5, 0.5).expand(2, 3), points).tolist() == [[0.5] * 3, [0.0] * 3]


def test_the_range_of_exchange_adds_up_load_and_devices() -> None:
    assert REACH.low_mw.tolist() == pytest.approx([0.1 - 1.5, 0.2 - 0.8, 0.3 - 0.7])
    assert REACH.high_mw.tolist() == pytest.approx([1.4, 1.5, 1.1])


@pytest.mark.parametrize("target", [1.6, -0.7])
def test_an_unreachable_set_point_names_the_microgrid_its_range_and_the_value(target: float) -> None:
    points = setpoint.target_points(AGENTS, {"MG1": 0.0, "MG2": target})
    with pytest.raises(ValueError, match=rf"target_mw.MG2 is an unreachable set-point.* -0.600 to 1.500 MW.*{target}"):
        setpoint.check_reachable(AGENTS, points, REACH)


def test_an_import_limit_is_unreachable_only_from_below() -> None:
    setpoint.check_reachable(AGENTS, setpoint.capacity_points(AGENTS, 90.0), REACH)
    forced_export = setpoint.SetPoints(row(-inf, -inf, -inf)[0], row(1.0, 1.0, -0.5)[0], row(1.0, 1.0, 1.0)[0])
    with pytest.raises(ValueError, match=r"capacity_mw \* share.MG3 is an unreachable .* -0.400 to 1.100 MW.*-0.500"):
        setpoint.check_reachable(AGENTS, forced_export, REACH)


def test_reachable_and_absent_set_points_pass_the_check() -> None:
    setpoint.check_reachable(AGENTS, setpoint.target_points(AGENTS, {}), REACH)
    setpoint.check_reachable(AGENTS, setpoint.target_points(AGENTS, {"MG1": 1.4, "MG2": -0.6}), REACH)


def test_bad_set_points_name_the_setting() -> None:
    with pytest.raises(ValueError, match=r"setpoint.target_mw names 'MG4', .* use MG1, MG2, MG3; did you mean 'MG"):
        setpoint.target_points(AGENTS, {"MG4": 0.5})
    with pytest.raises(ValueError, match=r"setpoint.target_mw.MG1 must be a finite number of MW or null, got nan"):
        setpoint.target_points(AGENTS, {"MG1": float("nan")})
    with pytest.raises(ValueError, match=r"setpoint.priority.MG1 must be in \[0, 1\], got 1.5"):
        setpoint.target_points(AGENTS, {"MG1": 0.5}, {"MG1": 1.5})
    with pytest.raises(ValueError, match=r"setpoint.capacity_mw must be positive, got 0"):
        setpoint.capacity_points(AGENTS, 0.0)
    with pytest.raises(ValueError, match=r"setpoint.share.MG2 must not be negative, got -0.1"):
        setpoint.capacity_points(AGENTS, 2.0, {"MG2": -0.1})
    with pytest.raises(ValueError, match=r"setpoint.share must sum to at most 1, got 1.2"):
        setpoint.capacity_points(AGENTS, 2.0, {"MG1": 0.7, "MG2": 0.5})
