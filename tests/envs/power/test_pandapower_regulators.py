"""Tap changers of a pandapower net as automatic regulators."""

from typing import Any

import numpy as np
import pytest
import torch

from envs.power import Network, solve_power_flow
from envs.power.flow import FlowSolver
from envs.power.regulators import TapSettler
from tests.envs.pandapower_reference import solve, voltages
from tests.envs.power.pandapower_grids import MAGNETISED, RATIO, feeder

CHANGER: dict[str, Any] = RATIO | {"tap_side": "lv", "tap_neutral": 2, "tap_min": -7, "tap_max": 11, "name": "T1"}
HELD = {"T1": (1.03, 0.02)}


def largest_difference_pu(net: Any, ours: Network, taps: range) -> float:
    """Over tap positions counted from neutral, against pandapower with the same positions."""
    p_mw, q_mvar = ours.nominal_injections()
    positions = torch.tensor([[float(tap)] for tap in taps], dtype=torch.float64)
    result = solve_power_flow(ours, p_mw, q_mvar, positions, tolerance_pu=1e-12)
    worst = 0.0
    for row, tap in enumerate(taps):
        net.trafo["tap_pos"] = net.trafo.tap_neutral + tap
        solve(net)
        v = result.v_pu[row, [ours.position(bus) for bus in net.bus.index]].numpy()
        worst = max(worst, float(np.abs(v - voltages(net)).max()))
    return worst


@pytest.mark.parametrize("key", ["T1", 0])
def test_a_tap_changer_becomes_a_regulator_of_its_lv_bus(key: int | str) -> None:
    net = feeder(**CHANGER)
    ours = Network.from_pandapower(net, regulators={key: (1.03, 0.02)})
    (regulator,) = ours.regulators
    assert (regulator.name, ours.bus_index[regulator.bus]) == ("T1", net.trafo.lv_bus[0])
    assert (regulator.target_pu, regulator.half_band_pu, regulator.step_pu) == (1.03, 0.01, 0.015)
    assert (regulator.tap_min, regulator.tap_max) == (-9, 9)


def test_at_every_tap_the_voltages_are_those_of_pandapower() -> None:
    net = feeder(**CHANGER, vn_hv_kv=20.5, shift_degree=30.0, parallel=2)
    ours = Network.from_pandapower(net, regulators=HELD)
    assert largest_difference_pu(net, ours, range(-3, 10, 3)) < 1e-7


def test_with_a_magnetising_branch_they_are_exact_at_neutral_and_close_elsewhere() -> None:
    net = feeder(**CHANGER, **MAGNETISED | {"pfe_kw": 0.6, "i0_percent": 0.3})
    ours = Network.from_pandapower(net, regulators=HELD)
    assert largest_difference_pu(net, ours, range(1)) < 1e-7
    assert 1e-7 < largest_difference_pu(net, ours, range(-9, 10, 9)) < 5e-5  # the lv half of it stays at neutral


def test_the_settled_tap_holds_the_target_and_is_a_fixed_point_of_pandapower_too() -> None:
    net = feeder(**CHANGER)
    net.ext_grid["vm_pu"] = 0.97
    ours = Network.from_pandapower(net, regulators=HELD)
    solver = FlowSolver(ours, torch.device("cpu"), torch.float64)
    p_mw, q_mvar = (x[None] for x in ours.nominal_injections())
    start = torch.zeros(1, 1, dtype=torch.float64)
    before = solve_power_flow(ours, p_mw, q_mvar, start).v_pu[0, ours.regulators[0].bus].abs().item()
    assert before < 1.02
    tap = int(TapSettler(ours, solver).settle(solver.load(-p_mw, -q_mvar), start, 1e-10).tap.item())
    assert 0 < tap <= 9
    net.trafo["tap_pos"] = net.trafo.tap_neutral + tap
    solve(net)
    assert net.res_bus.vm_pu[net.trafo.lv_bus[0]] == pytest.approx(1.03, abs=0.01)


def test_without_regulators_the_tap_position_stands() -> None:
    net = feeder(**CHANGER)
    assert Network.from_pandapower(net).regulators == ()
    low, high = (Network.from_pandapower(feeder(**CHANGER | {"tap_pos": tap})).ratio.abs().max() for tap in (2, 11))
    assert high / low == pytest.approx(1 + 9 * 0.015)


@pytest.mark.parametrize(
    ("changed", "regulators", "message"),
    [
        ({}, {"T9": (1.0, 0.02)}, r"regulators: 'T9' is no transformer that conducts .* has trafo 0 \('T1'\)"),
        (
            {},
            {"T1": (0.0, 0.02)},
            r"regulators: trafo 0 \('T1'\) needs a positive target_pu and deadband_pu, got 0.0 and",
        ),
        (
            {"tap_side": "hv"},
            HELD,
            r"must have a Ratio tap changer on its lv side .* tap_side 'hv'; set tap_side to 'lv'",
        ),
        ({"tap_changer_type": None}, HELD, "must have a Ratio tap changer .* got tap_changer_type None"),
        ({"tap_step_degree": 90.0}, HELD, "must have a Ratio tap changer on its lv side without tap_step_degree"),
        ({"tap_min": 3}, HELD, "needs whole tap_min <= tap_neutral <= tap_max .* got 3, 2, 11 and 1.5"),
        ({"tap_max": 2.5}, HELD, "needs whole tap_min <= tap_neutral <= tap_max .* got -7, 2, 2.5 and 1.5"),
        ({"tap_step_percent": np.nan}, HELD, "and a positive tap_step_percent, got -7, 2, 11 and nan"),
    ],
)
def test_a_regulator_that_cannot_be_is_refused(changed: Any, regulators: Any, message: str) -> None:
    net = feeder(**CHANGER)
    for column, value in changed.items():
        net.trafo[column] = value
    with pytest.raises(ValueError, match=message):
        Network.from_pandapower(net, regulators=regulators)


def test_a_regulated_transformer_fed_from_its_lv_side_is_refused() -> None:
    net = feeder(**CHANGER)
    net.ext_grid.loc[0, "bus"] = 2
    with pytest.raises(ValueError, match="regulator T1 is fed from its secondary side; swap its buses"):
        Network.from_pandapower(net, regulators=HELD)


def test_a_regulated_transformer_in_parallel_with_another_is_refused() -> None:
    net = feeder(**CHANGER)
    net.trafo.loc[1] = net.trafo.loc[0].to_dict() | {"name": "T2"}
    net.trafo = net.trafo.astype({"hv_bus": int, "lv_bus": int, "parallel": int, "in_service": bool})
    with pytest.raises(ValueError, match=r"regulators: T1 \| T2 are in parallel; make one transformer of them"):
        Network.from_pandapower(net, regulators=HELD)
