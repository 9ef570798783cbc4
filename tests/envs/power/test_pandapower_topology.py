"""Trees, loops, islands and external grids of a pandapower net."""

import re
from typing import Any

import pandapower as pp
import pandapower.networks as cases
import pytest

from envs.power import Network
from tests.envs.power.pandapower_grids import LINE, RATIO, RandomGrid, difference_pu, feeder


def error_of(net: Any, **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        Network.from_pandapower(net, **options)
    return str(error.value)


def mesh_of(net: Any) -> str:
    """The error of a meshed net; empty once it is radial."""
    try:
        Network.from_pandapower(net)
    except ValueError as error:
        return str(error)
    return ""


def ring(*switched: int) -> Any:
    """The feeder with line 4 from bus 4 to bus 5: a ring 3 - 4 - 5; closed switches at both ends of some lines."""
    net = feeder()
    pp.create_line_from_parameters(net, 4, 5, length_km=0.1, name="tie", **LINE)
    for line in switched:
        for column in ("from_bus", "to_bus"):
            pp.create_switch(net, net.line.at[line, column], line, et="l")
    return net


def follow(net: Any, advice: str) -> None:
    """Do what the message asks for."""
    if found := re.search(r"; open switch (\d+)", advice):
        net.switch.loc[int(found[1]), "closed"] = False
        return
    branches = re.findall(r"(line|trafo) (\d+)", advice.split(": take ")[1])
    assert branches
    for kind, number in branches:
        net[kind].loc[int(number), "in_service"] = False


def test_a_loop_is_named_in_order_with_the_switch_that_opens_it() -> None:
    net = ring(2, 4)
    message = error_of(net)
    assert "bus 3 - line 2 - bus 4 - line 4 ('tie') - bus 5 - line 3 - bus 3 is a loop; open switch 2 of" in message
    assert "open switch 2 of line 4 ('tie') at bus 4" in message
    follow(net, message)
    assert difference_pu(net) < 1e-7


def test_the_switch_to_open_is_the_one_nearest_to_the_middle_of_the_loop() -> None:
    assert "open switch 0 of line 2 at bus 3" in error_of(ring(2))


def test_a_loop_without_a_switch_names_the_line_to_take_out() -> None:
    net = ring()
    message = error_of(net)
    assert "is a loop; no single switch can part it: take line 4 ('tie') out of service" in message
    follow(net, message)
    assert difference_pu(net) < 1e-7


def test_lines_in_parallel_on_a_loop_are_taken_out_together() -> None:
    net = ring()
    pp.create_line_from_parameters(net, 5, 4, length_km=0.1, **LINE)
    message = error_of(net)
    assert "take line 4 ('tie') and line 5 out of service" in message
    follow(net, message)
    assert difference_pu(net) < 1e-7


def test_a_loop_through_a_bus_coupler_names_the_coupler_and_not_one_of_two_in_parallel() -> None:
    net = feeder()
    beyond = pp.create_bus(net, vn_kv=0.4)
    pp.create_line_from_parameters(net, 5, beyond, length_km=0.1, **LINE)
    for _ in range(2):
        pp.create_switch(net, 4, beyond, et="b", name="doubled")
    message = error_of(net)
    assert "bus 6 - switch 0 ('doubled') - bus 4" in message
    assert "no single switch can part it: take line" in message
    net.switch = net.switch.drop(index=1)
    message = error_of(net)
    assert message.endswith("open switch 0 ('doubled')")
    follow(net, message)
    assert difference_pu(net) < 1e-7


def test_lines_whose_far_ends_a_closed_switch_joins_are_in_parallel() -> None:
    net = feeder()
    pp.create_switch(net, 4, 5, et="b")
    assert "line 2 | line 3" in Network.from_pandapower(net).branch_names
    assert difference_pu(net) < 1e-7


def test_a_line_that_a_closed_switch_bridges_is_a_loop() -> None:
    net = feeder()
    pp.create_switch(net, 3, 5, et="b")
    assert "bus 3 - line 3 - bus 5 - switch 0 - bus 3 is a loop; open switch 0" in error_of(net).replace(
        "bus 3 - switch 0 - bus 5 - line 3 - bus 3", "bus 3 - line 3 - bus 5 - switch 0 - bus 3"
    )


def test_a_line_from_a_bus_to_itself_is_a_loop() -> None:
    net = feeder()
    pp.create_line_from_parameters(net, 5, 5, length_km=0.1, **LINE)
    assert "bus 5 - line 4 - bus 5 is a loop; no single switch can part it: take line 4 out" in error_of(net)


def test_transformers_in_parallel_with_different_ratios_are_a_loop() -> None:
    net = feeder(**RATIO)
    net.trafo.loc[1] = net.trafo.loc[0].to_dict() | {"tap_pos": 2}
    net.trafo = net.trafo.astype({"hv_bus": int, "lv_bus": int, "parallel": int, "in_service": bool})
    message = error_of(net)
    assert "trafo 0 | trafo 1 join the same buses with different ratios, a current circulates; give them" in message
    net.trafo["tap_pos"] = -3
    assert difference_pu(net) < 1e-7


def test_cigre_mv_with_all_switches_closed_becomes_radial_by_its_own_messages() -> None:
    net: Any = cases.create_cigre_network_mv()
    net.switch["closed"] = True
    assert "is a loop (1 of 3 loops); open switch" in error_of(net)
    for left in (2, 1, 0):
        follow(net, error_of(net))
        if left > 1:
            assert f"(1 of {left} loops)" in error_of(net)
    assert difference_pu(net) < 1e-7


@pytest.mark.parametrize("seed", range(5))
def test_a_meshed_random_network_becomes_radial_by_its_own_messages(seed: int) -> None:
    grid = RandomGrid(seed)
    net = grid.net
    by_kv = [[bus for bus in grid.trees[0] if net.bus.vn_kv[bus] == kv] for kv in (110.0, 20.0, 0.4)]
    most = max(by_kv, key=len)
    for _ in range(4):
        a, b = (int(bus) for bus in grid.rng.choice(most, 2, replace=False))
        tie = grid.add_line(a, b)
        if grid.rng.random() < 0.5:
            pp.create_switch(net, b, tie, et="l")
    steps = 0
    while message := mesh_of(net):
        follow(net, message)
        steps += 1
    assert 1 <= steps < 10
    assert difference_pu(net) < 1e-7


def test_loops_of_another_tree_do_not_matter() -> None:
    net = ring()
    other = pp.create_bus(net, vn_kv=20.0)
    pp.create_ext_grid(net, other)
    assert Network.from_pandapower(net, ext_grid=1).bus_index == (other,)


def test_several_external_grids_are_named_with_the_way_to_choose() -> None:
    message = error_of(cases.mv_oberrhein())
    assert "ext_grid 0 ('External Grid 0') at bus 58, ext_grid 1 ('External Grid 1') at bus 318; choose" in message
    assert "choose the tree of one with ext_grid=0, or set ext_grid.in_service of the others to False" in message


def test_a_network_without_external_grid_is_refused() -> None:
    net = feeder()
    net.ext_grid["in_service"] = False
    assert "has no external grid in service; add one with pandapower.create_ext_grid" in error_of(net)
    net.ext_grid["in_service"] = True
    net.bus.loc[0, "in_service"] = False
    assert "has no external grid in service" in error_of(net)


def test_an_external_grid_that_does_not_exist_is_refused_with_those_that_do() -> None:
    net: Any = cases.mv_oberrhein()
    assert "ext_grid=7 is none of the external grids in service; they are ext_grid 0 (" in error_of(net, ext_grid=7)
    net.ext_grid["name"] = "same"
    assert "ext_grid='same' is the name of 2 of the external grids in service" in error_of(net, ext_grid="same")


def test_a_tree_that_another_external_grid_feeds_too_names_the_path_and_the_switch() -> None:
    net = ring(2, 4)
    net.line.loc[3, "in_service"] = False
    pp.create_ext_grid(net, 5, name="second")
    message = error_of(net, ext_grid=0)
    assert message.startswith(
        "ext_grid 0 at bus 0 is connected to ext_grid 1 ('second') at bus 5: bus 0 - line 0 - bus 1"
    )
    assert "- bus 4 - line 4 ('tie') - bus 5; open switch" in message
    assert message.endswith(", or set ext_grid.in_service of one of them to False")
    follow(net, message)
    assert difference_pu(net, 0) < 1e-7


def test_two_external_grids_at_one_bus_are_refused() -> None:
    net = feeder()
    pp.create_ext_grid(net, 0)
    message = error_of(net, ext_grid=1)
    assert "connected to ext_grid 0 at bus 0: bus 0; set ext_grid.in_service of one of them to False" in message


def test_buses_without_supply_are_named() -> None:
    net = feeder()
    pp.create_bus(net, vn_kv=0.4, index=77)
    net.line.loc[3, "in_service"] = False
    assert "no external grid supplies bus 5, 77; close a switch towards it, or set bus.in_service" in error_of(net)
    for index in range(100, 130):
        pp.create_bus(net, vn_kv=0.4, index=index)
    assert "116, 117 and 12 more; close" in error_of(net)
