"""What `Network.from_pandapower` refuses: by name, with the rule and the way out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
from pandapower.control import DiscreteTapControl
from pandapower.toolbox import replace_gen_by_sgen, replace_ward_by_internal_elements

from envs.power import Network
from envs.power.pandapower_tables import REMEDIES, SUPPORTED, WITHOUT_EFFECT
from tests.envs.power.pandapower_grids import RATIO, TAP, difference_pu, feeder


def element_tables() -> list[str]:
    """Every table of an empty net that is no result."""
    net = pp.create_empty_network()
    tables = [name for name in net if isinstance(net[name], pd.DataFrame)]
    return [name for name in tables if not name.startswith(("_", "res_"))]


def error_of(net: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        Network.from_pandapower(net, **options)
    return str(error.value)


def test_every_table_of_pandapower_is_either_supported_or_refused_or_without_effect() -> None:
    assert sorted(element_tables()) == sorted([*SUPPORTED, *REMEDIES, *WITHOUT_EFFECT])


@pytest.mark.parametrize("table", REMEDIES)
def test_an_unsupported_element_is_refused_by_name_with_its_remedy(table: str) -> None:
    net = feeder()
    net[table] = pd.DataFrame({"name": ["mine", None], "bus": [3, 5], "in_service": [True, False]}).set_axis([4, 7])
    message = error_of(net)
    assert message.startswith(f"pandapower table {table!r} is not supported, in service are {table} 4 ('mine'): ")
    assert REMEDIES[table] in message
    net[table]["in_service"] = False
    assert Network.from_pandapower(net).num_buses == 6


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
        ("asymmetric_sgen", lambda net: pp.create_asymmetric_sgen(net, 3, p_a_mw=0.01)),
        ("dcline", lambda net: pp.create_dcline(net, 3, 5, 0.1, 1.0, 0.0, 1.0, 1.0)),
        ("bus_dc", lambda net: pp.create_bus_dc(net, 1.0)),
        (
            "trafo3w",
            lambda net: pp.create_transformer3w_from_parameters(
                net, 1, 3, 5, 20.0, 0.4, 0.4, 1.0, 1.0, 1.0, 6.0, 6.0, 6.0, 1.0, 1.0, 1.0, 0.0, 0.0
            ),
        ),
    ],
)
def test_what_pandapower_creates_is_found_in_its_table(table: str, add: Callable[[Any], Any]) -> None:
    net = feeder()
    add(net)
    assert f"table {table!r} is not supported, in service are {table} 0: " in error_of(net)


def test_a_gen_and_a_ward_agree_with_pandapower_after_their_remedies() -> None:
    net = feeder()
    pp.create_gen(net, 3, p_mw=0.02, vm_pu=0.99)
    pp.create_ward(net, 5, 0.01, 0.002, 0.01, -0.01)
    pp.runpp(net, numba=False)
    held = net.res_bus.vm_pu.copy()
    replace_gen_by_sgen(net)
    replace_ward_by_internal_elements(net)
    assert difference_pu(net) < 1e-7
    assert (net.res_bus.vm_pu - held).abs().max() < 1e-6


def test_an_element_of_a_later_pandapower_is_refused_and_a_table_of_ones_own_is_not() -> None:
    net = feeder()
    net["notes"] = pd.DataFrame({"author": ["me"]})
    assert Network.from_pandapower(net).num_buses == 6
    net["flywheel"] = pd.DataFrame({"bus": [3]})
    assert "table 'flywheel' is not supported, in service are flywheel 0: supported are bus, line" in error_of(net)


def test_tables_without_effect_change_no_voltage() -> None:
    net = feeder(**RATIO)
    pp.create_measurement(net, "v", "bus", 1.5, 0.01, element=3)
    pp.create_poly_cost(net, 0, "sgen", cp1_eur_per_mw=5.0)
    pp.create_pwl_cost(net, 0, "ext_grid", [[0, 1, 5.0]])
    pp.create_group(net, ["bus"], [[1, 2]])
    DiscreteTapControl(net, 0, 1.08, 1.12)  # would move the tap under run_control
    assert all(len(net[name]) for name in WITHOUT_EFFECT)
    assert difference_pu(net) < 1e-7


def test_a_power_flow_option_that_changes_the_model_is_refused() -> None:
    net = feeder()
    pp.set_user_pf_options(net, trafo_model="pi", init="flat")
    assert "net.user_pf_options has trafo_model='pi'; this model is that of trafo_model='t'" in error_of(net)
    pp.set_user_pf_options(net, overwrite=True, init="flat")
    assert Network.from_pandapower(net).num_buses == 6


@pytest.mark.parametrize("wrong", ["grid.json", {"bus": 1}, None])
def test_what_is_no_net_is_refused_with_the_way_to_read_one(wrong: Any) -> None:
    assert "takes a pandapower net, got" in error_of(wrong)
    assert "pandapower.from_json(path)" in error_of(wrong)


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("line", "r_ohm_per_km", np.nan, "line 2: r_ohm_per_km must be a finite number, got nan"),
        ("line", "parallel", 0, "line 2: parallel must be positive, got 0"),
        ("trafo", "sn_mva", -0.4, "trafo 0: sn_mva must be positive, got -0.4"),
        ("trafo", "vk_percent", 1.0, "trafo 0: vk_percent must be at least vkr_percent"),
        ("load", "p_mw", np.inf, "load 1: p_mw must be a finite number, got inf"),
        ("sgen", "q_mvar", np.nan, "sgen 0: q_mvar must be a finite number, got nan"),
        ("shunt", "q_mvar", np.nan, "shunt 0: q_mvar must be a finite number, got nan"),
        ("ext_grid", "vm_pu", 0.0, "ext_grid 0: vm_pu must be positive, got 0"),
        ("bus", "vn_kv", 0.0, "bus 5: vn_kv must be positive, got 0"),
        (
            "load",
            "const_i_p_percent",
            50.0,
            "load 1: const_i_p_percent makes the load depend on the voltage; set it to 0",
        ),
        (
            "load",
            "const_z_q_percent",
            5.0,
            "load 1: const_z_q_percent makes the load depend on the voltage; set it to 0",
        ),
        ("trafo", "tap_dependency_table", True, "trafo 0: tap_dependency_table is not supported; set it to False"),
        ("shunt", "step_dependency_table", True, "shunt 0: step_dependency_table is not supported; set it to False"),
    ],
)
def test_a_cell_that_the_model_cannot_take_is_named(table: str, column: str, value: Any, message: str) -> None:
    net = feeder()
    row = int(message.split(":", maxsplit=1)[0].split()[1])
    net[table][column] = net[table][column].astype(object)
    net[table].at[row, column] = value
    assert error_of(net).startswith(message)
    if table != "bus":
        net[table].at[row, "in_service"] = False
        remaining = Network.from_pandapower if table not in ("trafo", "line", "ext_grid") else error_of
        assert message not in str(remaining(net))


def test_a_column_of_an_old_version_is_missed_with_the_way_to_renew_the_net() -> None:
    net = feeder(**TAP)
    net.line = net.line.drop(columns="g_us_per_km")
    assert "line.g_us_per_km is missing; pandapower.convert_format(net)" in error_of(net)
    net = feeder(**TAP)
    net.trafo = net.trafo.drop(columns="tap_changer_type").assign(tap_phase_shifter=False)
    assert "trafo 0: tap_phase_shifter is of pandapower 2; give tap_changer_type" in error_of(net)


def test_a_switch_with_impedance_is_refused_while_it_is_closed() -> None:
    net = feeder()
    pp.create_switch(net, 5, pp.create_bus(net, vn_kv=0.4), et="b", z_ohm=0.1)
    assert "switch 0: z_ohm must be 0 for a closed switch between buses; replace it by a line" in error_of(net)
    net.switch["closed"] = False
    assert "no external grid supplies bus 6; close a switch towards it, or set bus.in_service to False" in error_of(net)


def test_a_switch_that_belongs_nowhere_is_named() -> None:
    net = feeder()
    pp.create_switch(net, 3, 1, et="l")
    net.switch["bus"] = 5
    assert "switch 0 sits at bus 5, but line 1 ends at buses 2 and 3; correct switch.bus" in error_of(net)
    net.switch["element"] = 99
    assert "switch 0 belongs to line 99, which does not exist; remove it" in error_of(net)


@pytest.mark.parametrize(
    ("trafo", "message"),
    [
        (TAP | {"tap_changer_type": "Tabular"}, "trafo 0: tap_changer_type 'Tabular' is not supported; use Ratio"),
        (
            {"tap2_pos": 2, "tap2_neutral": np.nan, "tap2_side": "hv", "tap2_changer_type": "Ratio"},
            "trafo 0: tap2_neutral must be a number where tap2_changer_type is set, got NaN",
        ),
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
