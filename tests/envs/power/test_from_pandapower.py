from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as cases
import pytest
import torch

from envs.power import Network, solve_power_flow
from tests.envs.pandapower_reference import solve
from tests.envs.power.pandapower_grids import LINE, MAGNETISED, RATIO, TAP, difference_pu, feeder


@pytest.mark.parametrize(
    "trafo",
    [
        {},
        {"vn_hv_kv": 21.0, "vn_lv_kv": 0.41},
        {"shift_degree": 150.0},
        {"parallel": 3},
        {"pfe_kw": 1.35, "i0_percent": 0.35},
        RATIO,
        RATIO | {"tap_side": "lv", "tap_pos": 2},
        RATIO | {"tap_step_degree": 60.0},
        TAP | {"tap_changer_type": "Symmetrical", "tap_step_degree": 90.0},
        TAP | {"tap_changer_type": "Ideal", "tap_step_percent": 0.0, "tap_step_degree": 2.0},
        TAP | {"tap_changer_type": "Ideal", "tap_step_percent": 0.0, "tap_step_degree": 2.0, "tap_side": "lv"},
        TAP | {"tap_changer_type": "Ideal", "tap_step_percent": 2.5, "tap_step_degree": 0.0, "tap_pos": -7},
        TAP | {"tap_changer_type": "Ideal", "tap_step_percent": 2.5, "tap_step_degree": np.nan, "tap_side": "lv"},
        TAP | {"tap_changer_type": "Ideal", "tap_step_percent": np.nan, "tap_step_degree": 2.0},
        RATIO | {"tap_step_degree": np.nan},
        TAP | {"tap_changer_type": None},
        RATIO | MAGNETISED | {"leakage_resistance_ratio_hv": 0.3, "leakage_reactance_ratio_hv": 0.8},
        {"leakage_resistance_ratio_hv": 0.0, "leakage_reactance_ratio_hv": 1.0, "pfe_kw": 0.0, "i0_percent": 0.0},
        RATIO
        | {"vn_hv_kv": 20.5, "shift_degree": 30.0, "parallel": 2, "pfe_kw": 2.0, "i0_percent": 1.0, "tap_side": "lv"},
    ],
    ids=lambda trafo: "-".join(trafo) or "plain",
)
def test_transformers_agree_with_pandapower(trafo: dict[str, Any]) -> None:
    assert difference_pu(feeder(**trafo)) < 1e-7


def test_a_transformer_fed_from_its_low_side_agrees_with_pandapower() -> None:
    net = feeder(**RATIO, shift_degree=30.0, pfe_kw=1.0, i0_percent=0.5)
    net.ext_grid.loc[0, ["bus", "vm_pu"]] = [2, 1.0]
    net.ext_grid["bus"] = net.ext_grid.bus.astype("uint32")
    assert difference_pu(net) < 1e-7


def test_open_ends_and_elements_out_of_service_agree_with_pandapower() -> None:
    net = feeder()
    pp.create_switch(net, 4, 2, et="l", closed=False)  # line a-b open at b
    net.load.loc[0, "in_service"] = False
    net.bus.loc[4, "in_service"] = False
    pp.create_load(net, 5, 0.5, 0.5, in_service=False)
    pp.create_sgen(net, 5, 0.5, 0.5, in_service=False)
    pp.create_shunt(net, 5, q_mvar=-0.5, in_service=False)
    spare = pp.create_bus(net, vn_kv=0.4, in_service=False)
    line: dict[str, Any] = {
        "length_km": 1.0,
        "r_ohm_per_km": 0.1,
        "x_ohm_per_km": 0.1,
        "c_nf_per_km": 500.0,
        "max_i_ka": 0.1,
    }
    pp.create_line_from_parameters(net, 5, spare, **line)  # charged from bus 5
    pp.create_line_from_parameters(net, 5, 3, **line, in_service=False)
    pp.create_line_from_parameters(net, 5, 3, **line)  # would close a loop: open at one end
    pp.create_switch(net, 3, net.line.index[-1], et="l", closed=False)
    pp.create_transformer_from_parameters(net, 1, 2, 0.4, 20.0, 0.4, 1.0, 6.0, 1.0, 0.5, in_service=False)
    pp.create_transformer_from_parameters(net, 1, 2, 0.4, 20.0, 0.4, 1.0, 6.0, 1.0, 0.5)
    for bus in (1, 2):
        pp.create_switch(net, bus, net.trafo.index[-1], et="t", closed=False)
    beyond = pp.create_bus(net, vn_kv=0.4, in_service=False)
    pp.create_switch(net, 5, beyond, et="b", closed=True)
    assert difference_pu(net) < 1e-7


@pytest.mark.parametrize("open_bus", [1, 2])
def test_a_transformer_open_at_one_end_agrees_with_pandapower(open_bus: int) -> None:
    net = feeder()
    share: dict[str, Any] = {"leakage_resistance_ratio_hv": 0.2, "leakage_reactance_ratio_hv": 0.9}
    pp.create_transformer_from_parameters(net, 1, 2, 0.4, 21.0, 0.4, 1.0, 6.0, 3.0, 5.0, **share)
    pp.create_switch(net, open_bus, net.trafo.index[-1], et="t", closed=False)
    assert difference_pu(net) < 1e-7


def test_an_unknown_rating_is_no_limit() -> None:
    net = feeder()
    net.line.loc[1, "max_i_ka"] = np.nan
    ours = Network.from_pandapower(net)
    loading = solve_power_flow(ours, *ours.nominal_injections()).line_loading[0]
    assert torch.isfinite(loading).all()
    assert (loading == 0).sum() == 1


def test_closed_bus_switches_fuse_buses() -> None:
    net = feeder()
    extra = pp.create_bus(net, vn_kv=0.4)
    pp.create_switch(net, 5, extra, et="b", closed=True)
    pp.create_load(net, extra, 0.02, 0.01)
    ours = Network.from_pandapower(net)
    assert ours.position(extra) == ours.position(5)
    assert difference_pu(net) < 1e-7


def test_loading_agrees_with_pandapower_where_there_is_no_charging() -> None:
    net = feeder()
    net.line["c_nf_per_km"] = net.line["g_us_per_km"] = 0.0
    ours = Network.from_pandapower(net)
    result = solve_power_flow(ours, *ours.nominal_injections(), tolerance_pu=1e-12)
    solve(net)
    lines = np.sort(result.line_loading[0].numpy()) * 100
    assert np.abs(lines - np.sort(net.res_line.loading_percent)).max() < 1e-5
    rated_ka = 0.4 / 3**0.5 / 20.0
    assert result.trafo_loading[0].item() == pytest.approx(net.res_trafo.i_hv_ka[0] / rated_ka, abs=1e-7)


def test_a_batch_of_a_converted_network_scales_its_own_injections() -> None:
    net: Any = cases.case33bw()
    ours = Network.from_pandapower(net)
    p_mw, q_mvar = ours.nominal_injections()
    scale = torch.tensor([0.5, 1.0], dtype=torch.float64)[:, None]
    result = solve_power_flow(ours, p_mw * scale, q_mvar * scale, tolerance_pu=1e-12)
    net.load["scaling"] = 0.5
    solve(net)
    assert (result.v_pu[0].abs().min().item(), result.v_pu[1].abs().min().item()) == pytest.approx(
        (net.res_bus.vm_pu.min(), 0.91309), abs=2e-6
    )  # 0.91309 pu: Baran and Wu (1989)


def test_two_tap_changers_add_up_as_in_pandapower() -> None:
    second = {"tap2_side": "lv", "tap2_neutral": 1, "tap2_min": -5, "tap2_max": 5, "tap2_pos": 4}
    second |= {"tap2_step_percent": 1.25, "tap2_step_degree": 90.0, "tap2_changer_type": "Ratio"}
    net = feeder(**RATIO, **second)
    before = Network.from_pandapower(net).ratio
    assert difference_pu(net) < 1e-7
    net.trafo["tap2_pos"] = 1
    assert (Network.from_pandapower(net).ratio - before).abs().max() > 1e-3
    assert difference_pu(net) < 1e-7


def test_a_negative_short_circuit_voltage_is_capacitive_as_in_pandapower() -> None:
    net = feeder(vk_percent=-6.0)
    assert Network.from_pandapower(net).z_pu.imag.min() < 0
    assert difference_pu(net) < 1e-7


def test_a_shunt_without_rated_voltage_takes_its_bus_voltage() -> None:
    net = feeder()
    net.shunt["vn_kv"] = np.nan
    expected = Network.from_pandapower(net).y_pu  # before pandapower fills the cell in
    assert difference_pu(net) < 1e-7
    assert net.shunt.vn_kv[0] == 0.4
    assert torch.equal(Network.from_pandapower(net).y_pu, expected)


def test_a_switch_without_a_stated_impedance_is_ideal() -> None:
    net = feeder()
    pp.create_switch(net, 5, pp.create_bus(net, vn_kv=0.4), et="b")
    net.switch["z_ohm"] = np.nan
    assert Network.from_pandapower(net).num_buses == 6


def test_conversion_leaves_the_net_as_it_was() -> None:
    net = feeder(**RATIO)
    before = {
        name: net[name].copy() for name in ("bus", "line", "trafo", "load", "sgen", "shunt", "switch", "ext_grid")
    }
    Network.from_pandapower(net)
    assert all(net[name].equals(table) for name, table in before.items())


def test_lines_in_parallel_are_one_branch_with_the_highest_of_their_loadings() -> None:
    net = feeder()
    net.line["c_nf_per_km"] = net.line["g_us_per_km"] = 0.0
    other: dict[str, Any] = LINE | {"x_ohm_per_km": 0.3, "c_nf_per_km": 0.0}
    pp.create_line_from_parameters(net, 3, 2, length_km=0.3, **other)
    ours = Network.from_pandapower(net)
    merged = ours.branch_names.index("line 1 | line 4")
    assert difference_pu(net) < 1e-7
    result = solve_power_flow(ours, *ours.nominal_injections(), tolerance_pu=1e-12)
    columns = [i for i in range(1, ours.num_buses) if not ours.is_trafo[i]]
    loading = 100 * result.line_loading[0, columns.index(merged)].item()
    assert loading == pytest.approx(net.res_line.loading_percent[[1, 4]].max(), rel=1e-6)


def test_transformers_in_parallel_share_the_current_as_in_pandapower() -> None:
    net = feeder(**MAGNETISED, vn_hv_kv=20.5)
    other = net.trafo.loc[0].to_dict() | {"sn_mva": 0.25, "vk_percent": 4.0, "name": "small"}
    net.trafo.loc[1] = other
    net.trafo = net.trafo.astype({"hv_bus": int, "lv_bus": int, "parallel": int, "in_service": bool})
    ours = Network.from_pandapower(net)
    assert "trafo 0 | small" in ours.branch_names
    assert difference_pu(net) < 1e-7


def test_one_tree_leaves_out_the_buses_and_loads_of_the_other() -> None:
    net = feeder()
    other, far = pp.create_bus(net, vn_kv=20.0), pp.create_bus(net, vn_kv=20.0)
    pp.create_ext_grid(net, other, vm_pu=0.99, name="north")
    pp.create_line_from_parameters(net, other, far, length_km=2.0, **LINE)
    pp.create_load(net, far, 1.0, 0.2)
    tie = pp.create_line_from_parameters(net, far, 1, length_km=1.0, **LINE)  # charged from the first tree
    pp.create_switch(net, far, tie, et="l", closed=False)
    south, north = (Network.from_pandapower(net, ext_grid=grid) for grid in (0, "north"))
    assert set(south.bus_index) == set(range(6))
    assert (north.bus_index, north.load_p_mw.sum().item()) == ((other, far), 1.0)
    assert max(difference_pu(net, 0), difference_pu(net, 1)) < 1e-7
