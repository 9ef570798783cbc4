import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandapower as pp
import pandapower.networks as cases
import pytest
import torch

from envs.power import Network, solve_power_flow
from tests.envs.pandapower_reference import solve, voltages


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    """pandapower's own cases are built with calls that pandas and pandapower deprecate."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"pandapower|pandas|numpy")
        yield


def difference_pu(net: Any) -> float:
    """Largest |dV| (complex, so angles count) over the supplied buses."""
    ours = Network.from_pandapower(net)
    result = solve_power_flow(ours, *ours.nominal_injections(), tolerance_pu=1e-12)
    assert result.converged.all()
    v = np.full(int(net.bus.index.max()) + 1, np.nan + 0j)
    for bus in net.bus.index[net.bus.in_service]:
        v[bus] = result.v_pu[0, ours.position(int(bus))].item()
    start = np.array([v[bus] for bus in net.bus.index])
    solve(net, np.where(np.isnan(start), 1.0, start))
    return float(np.nanmax(np.abs(voltages(net) - start)))


def feeder(**trafo: Any) -> Any:
    """20 kV, a transformer, 0.4 kV with a spur; keyword arguments change the transformer."""
    net = pp.create_empty_network()
    grid, hv, lv, a, b, c = (pp.create_bus(net, vn_kv=kv) for kv in (20.0, 20.0, 0.4, 0.4, 0.4, 0.4))
    pp.create_ext_grid(net, grid, vm_pu=1.02, va_degree=10.0)
    line: dict[str, Any] = {"r_ohm_per_km": 0.2, "x_ohm_per_km": 0.08, "c_nf_per_km": 300.0, "max_i_ka": 0.3}
    pp.create_line_from_parameters(net, grid, hv, length_km=4.0, parallel=2, g_us_per_km=3.0, **line)
    for start, end, km in ((lv, a, 0.2), (a, b, 0.1), (a, c, 0.3)):
        pp.create_line_from_parameters(net, start, end, length_km=km, **line)
    values: dict[str, Any] = {"sn_mva": 0.4, "vn_hv_kv": 20.0, "vn_lv_kv": 0.4, "vkr_percent": 1.4, "vk_percent": 6.0}
    values |= {"pfe_kw": 0.0, "i0_percent": 0.0}
    pp.create_transformer_from_parameters(net, hv, lv, **(values | trafo))
    pp.create_load(net, b, 0.08, 0.02, scaling=0.9)
    pp.create_load(net, c, 0.06, 0.01)
    pp.create_sgen(net, a, 0.03, -0.004, scaling=1.2)
    pp.create_shunt(net, a, q_mvar=-0.02, p_mw=0.001, step=2, vn_kv=0.41, max_step=3)
    return net


TAP: dict[str, Any] = {
    "tap_side": "hv",
    "tap_neutral": 0,
    "tap_min": -9,
    "tap_max": 9,
    "tap_step_percent": 1.5,
    "tap_pos": -3,
}
MAGNETISED: dict[str, Any] = {"pfe_kw": 6.0, "i0_percent": 8.0}
RATIO: dict[str, Any] = TAP | {"tap_changer_type": "Ratio", "tap_step_degree": 0.0}


@pytest.mark.parametrize(
    "build",
    [
        cases.case33bw,
        cases.create_cigre_network_mv,
        cases.create_cigre_network_lv,
        cases.simple_four_bus_system,
        cases.four_loads_with_branches_out,
        cases.create_kerber_landnetz_freileitung_1,
        cases.create_kerber_dorfnetz,
        cases.kb_extrem_landnetz_kabel_trafo,
        cases.create_dickert_lv_network,
        cases.mv_oberrhein,
    ],
    ids=lambda build: build.__name__,
)
def test_bundled_radial_networks_agree_with_pandapower(build: Callable[[], Any]) -> None:
    net = build()
    if build is cases.case33bw:
        assert not net.line.in_service.all()  # its ties are out of service
    if build is cases.mv_oberrhein:
        net.ext_grid.loc[net.ext_grid.index[1:], "in_service"] = False
        pp.create_switch(net, net.ext_grid.bus.iloc[0], net.ext_grid.bus.iloc[1], et="b")
    assert difference_pu(net) < 1e-7


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


@pytest.mark.parametrize(
    ("trafo", "message"),
    [
        ({"tap2_pos": 2, "tap2_neutral": 0}, "trafo 0: a second tap changer is not supported; set tap2_pos to"),
        ({"tap2_pos": 2, "tap2_neutral": np.nan}, "trafo 0: a second tap changer is not supported"),
        (RATIO | {"tap_neutral": np.nan}, "trafo 0: tap_neutral must be a number where tap_changer_type is set, got"),
        (RATIO | {"tap_step_percent": np.nan}, "trafo 0: tap_step_percent must be a number for a Ratio tap changer"),
        (
            TAP | {"tap_changer_type": "Ideal", "tap_step_percent": np.nan, "tap_step_degree": np.nan},
            "trafo 0: an Ideal tap changer needs tap_step_percent or tap_step_degree",
        ),
        (
            TAP | {"tap_changer_type": "Ideal", "tap_step_percent": 1.5, "tap_step_degree": 2.0},
            "trafo 0: an Ideal tap changer has tap_step_percent 1.5 and tap_step_degree 2.0; set one of them to 0",
        ),
        (
            TAP | {"tap_changer_type": "Ideal", "tap_step_percent": 90.0, "tap_step_degree": 0.0},
            "trafo 0: -3 taps of tap_step_percent 90.0 exceed 200 %",
        ),
    ],
)
def test_tap_changers_that_mean_nothing_here_are_refused(trafo: dict[str, Any], message: str) -> None:
    net = feeder()
    for column, value in trafo.items():
        net.trafo[column] = value
    with pytest.raises(ValueError, match=message):
        Network.from_pandapower(net)


def test_a_second_tap_changer_at_neutral_does_not_matter() -> None:
    net = feeder(**RATIO)
    net.trafo["tap2_pos"] = net.trafo["tap2_neutral"] = 1
    assert Network.from_pandapower(net).num_buses == 6


def test_shunts_by_table_are_refused() -> None:
    net = feeder()
    net.shunt["step_dependency_table"] = True
    with pytest.raises(ValueError, match=r"shunt.step_dependency_table is not supported; set it to False"):
        Network.from_pandapower(net)


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


@pytest.mark.parametrize(
    ("table", "add"),
    [
        ("gen", lambda net: pp.create_gen(net, 3, p_mw=0.1)),
        ("ward", lambda net: pp.create_ward(net, 3, 0.1, 0.1, 0.1, 0.1)),
        ("xward", lambda net: pp.create_xward(net, 3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0)),
        ("impedance", lambda net: pp.create_impedance(net, 3, 5, 0.1, 0.1, 1.0)),
        ("storage", lambda net: pp.create_storage(net, 3, 0.1, 1.0)),
        ("motor", lambda net: pp.create_motor(net, 3, pn_mech_mw=0.01, cos_phi=0.9)),
        ("asymmetric_load", lambda net: pp.create_asymmetric_load(net, 3, p_a_mw=0.01)),
        ("dcline", lambda net: pp.create_dcline(net, 3, 5, 0.1, 1.0, 0.0, 1.0, 1.0)),
        (
            "trafo3w",
            lambda net: pp.create_transformer3w_from_parameters(
                net, 1, 3, 5, 20.0, 0.4, 0.4, 1.0, 1.0, 1.0, 6.0, 6.0, 6.0, 1.0, 1.0, 1.0, 0.0, 0.0
            ),
        ),
    ],
)
def test_unsupported_elements_are_refused_by_name(table: str, add: Callable[[Any], Any]) -> None:
    net = feeder()
    add(net)
    with pytest.raises(ValueError, match=f"pandapower table '{table}' is not supported .1 elements.*supported are bus"):
        Network.from_pandapower(net)


def test_unsupported_elements_out_of_service_do_not_matter() -> None:
    net = feeder()
    pp.create_gen(net, 3, p_mw=0.1, in_service=False)
    assert Network.from_pandapower(net).num_buses == 6


def test_voltage_dependent_loads_are_refused() -> None:
    net = feeder()
    pp.create_load(net, 5, 0.01, 0.0, const_z_p_percent=50.0)
    with pytest.raises(ValueError, match=r"const_z_p_percent are not supported; set it to 0"):
        Network.from_pandapower(net)


def test_a_loop_is_named() -> None:
    net = feeder()
    pp.create_line_from_parameters(net, 4, 5, 0.1, r_ohm_per_km=0.2, x_ohm_per_km=0.1, c_nf_per_km=0.0, max_i_ka=0.3)
    with pytest.raises(ValueError, match=r"meshed: (?=.*\b3\b)(?=.*\b4\b)(?=.*\b5\b).* is a loop; open a switch"):
        Network.from_pandapower(net)


def test_exactly_one_external_grid_is_required() -> None:
    net = feeder()
    pp.create_ext_grid(net, 2)
    with pytest.raises(ValueError, match="exactly one external grid in service, got 2"):
        Network.from_pandapower(net)
    net.ext_grid["in_service"] = False
    with pytest.raises(ValueError, match="exactly one external grid in service, got 0"):
        Network.from_pandapower(net)


def test_a_bus_without_supply_is_named() -> None:
    net = feeder()
    pp.create_bus(net, vn_kv=0.4, index=77)
    with pytest.raises(ValueError, match="no path from source bus 0 to bus 77"):
        Network.from_pandapower(net)


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
