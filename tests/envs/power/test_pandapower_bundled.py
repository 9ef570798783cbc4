"""The networks that come with pandapower, bus by bus; docs/own-grid.md quotes the numbers."""

import random
from collections.abc import Iterator
from typing import Any

import pandapower as pp
import pandapower.networks as cases
import pytest
from pandapower.toolbox import replace_pq_elmtype

from envs.power import Network
from tests.envs.power.pandapower_grids import difference_pu

QUICK = [
    "case33bw",
    "create_cigre_network_lv",
    "create_cigre_network_mv",
    "create_kerber_landnetz_freileitung_1",
    "create_kerber_landnetz_freileitung_2",
    "create_kerber_landnetz_kabel_1",
    "four_loads_with_branches_out",
    "kb_extrem_landnetz_kabel_trafo",
    "panda_four_load_branch",
    "simple_four_bus_system",
    "simple_mv_open_ring_net",
]
SLOW = [
    "create_dickert_lv_network",
    "create_kerber_dorfnetz",
    "create_kerber_landnetz_kabel_2",
    "create_kerber_vorstadtnetz_kabel_1",
    "create_kerber_vorstadtnetz_kabel_2",
    "create_synthetic_voltage_control_lv_network",
    "kb_extrem_dorfnetz",
    "kb_extrem_dorfnetz_trafo",
    "kb_extrem_landnetz_freileitung",
    "kb_extrem_landnetz_freileitung_trafo",
    "kb_extrem_landnetz_kabel",
    "kb_extrem_vorstadtnetz_1",
    "kb_extrem_vorstadtnetz_2",
    "kb_extrem_vorstadtnetz_trafo_1",
    "kb_extrem_vorstadtnetz_trafo_2",
]


@pytest.fixture(autouse=True)
def _same_draw() -> Iterator[None]:
    """Kerber's networks draw their cables from the global generator."""
    before = random.getstate()
    random.seed(7)
    yield
    random.setstate(before)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_bundled_radial_network_agrees_with_pandapower(name: str) -> None:
    assert difference_pu(getattr(cases, name)()) < 1e-7


def test_every_kerber_network_is_compared() -> None:
    kerber = {name for name in dir(cases) if name.startswith(("create_kerber_", "kb_"))}
    assert kerber <= {*QUICK, *SLOW}


def test_cigre_mv_with_generation_agrees_with_pandapower() -> None:
    build: Any = cases.create_cigre_network_mv  # typed as bool, documented as text
    net = build(with_der="pv_wind")
    assert len(net.sgen) > 0
    assert difference_pu(net) < 1e-7


def test_cigre_mv_with_batteries_agrees_after_the_remedy_of_its_error() -> None:
    build: Any = cases.create_cigre_network_mv
    net = build(with_der="all")
    with pytest.raises(ValueError, match=r"'storage' .* storage 0 \('Battery 1'\).*replace_pq_elmtype"):
        Network.from_pandapower(net)
    replace_pq_elmtype(net, "storage", "load")
    assert difference_pu(net) < 1e-7


@pytest.mark.parametrize(("ext_grid", "buses"), [(0, 70), (1, 109)])
def test_each_tree_of_mv_oberrhein_agrees_with_pandapower(ext_grid: int, buses: int) -> None:
    net: Any = cases.mv_oberrhein()
    ours = Network.from_pandapower(net, ext_grid=ext_grid)
    assert ours.num_buses == buses
    assert ours.bus_index[0] == net.ext_grid.bus[ext_grid]
    assert difference_pu(net, ext_grid) < 1e-7


def test_the_two_trees_of_mv_oberrhein_are_the_whole_network() -> None:
    net: Any = cases.mv_oberrhein()
    trees = [Network.from_pandapower(net, ext_grid=name) for name in net.ext_grid.name]
    assert set(trees[0].alias) | set(trees[1].alias) == set(net.bus.index)
    assert not set(trees[0].alias) & set(trees[1].alias)
    loads = sum(tree.load_p_mw.sum().item() for tree in trees)
    assert loads == pytest.approx((net.load.p_mw * net.load.scaling).sum())


@pytest.mark.slow
def test_the_trees_of_schutterwald_agree_with_pandapower_and_its_mesh_is_opened_as_the_error_says() -> None:
    net: Any = cases.lv_schutterwald()
    meshed = 13
    with pytest.raises(ValueError, match=r"is a loop; open switch 273 of line 8820"):
        Network.from_pandapower(net, ext_grid=meshed)
    net.switch.loc[273, "closed"] = False
    assert len(net.ext_grid) == 14
    for ext_grid in net.ext_grid.index:
        assert difference_pu(net, ext_grid) < 1e-7


@pytest.mark.slow
def test_the_european_low_voltage_network_agrees_once_its_loads_are_balanced() -> None:
    net: Any = cases.ieee_european_lv_asymmetric("on_peak_566")
    with pytest.raises(ValueError, match=r"'asymmetric_load' .* 50 more: the model is balanced; replace it by a load"):
        Network.from_pandapower(net)
    for load in net.asymmetric_load.itertuples():
        p_mw, q_mvar = (
            sum(getattr(load, f"{x}_{phase}_{unit}") for phase in "abc") for x, unit in (("p", "mw"), ("q", "mvar"))
        )
        pp.create_load(net, load.bus, p_mw, q_mvar, scaling=load.scaling)
    net.asymmetric_load["in_service"] = False
    assert difference_pu(net) < 1e-7
