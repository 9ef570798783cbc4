import pytest

from envs.power import Network
from tests.envs.power.pandapower_grids import RandomGrid, difference_pu


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 220))])
def test_a_random_network_agrees_with_pandapower(seed: int) -> None:
    assert difference_pu(RandomGrid(seed).net) < 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_each_tree_of_a_random_network_agrees_with_pandapower(seed: int) -> None:
    grid = RandomGrid(seed, trees=2)
    for ext_grid, tree in enumerate(grid.trees):
        assert set(Network.from_pandapower(grid.net, ext_grid=ext_grid).alias) == set(tree)
        assert difference_pu(grid.net, ext_grid) < 1e-7


def test_the_random_networks_hold_everything_that_is_supported() -> None:
    nets = [RandomGrid(seed).net for seed in range(20)]
    trafos = [row for net in nets for row in net.trafo[net.trafo.in_service].itertuples()]
    assert {row.tap_changer_type for row in trafos} >= {"Ratio", "Symmetrical", "Ideal"}
    for column in ("tap_side", "tap2_side"):
        assert {getattr(row, column, None) for row in trafos} >= {"hv", "lv"}
    assert any(row.i0_percent > 0 for row in trafos)
    assert any(row.parallel > 1 for row in trafos)
    assert any(getattr(row, "leakage_reactance_ratio_hv", 0.5) not in (0.5, None) for row in trafos)
    for kind in ("load", "sgen", "shunt", "line", "trafo", "bus"):
        assert {bool(state) for net in nets for state in net[kind].in_service} == {True, False}
    switches = {(row.et, bool(row.closed)) for net in nets for row in net.switch.itertuples()}
    assert switches == {(et, closed) for et in "blt" for closed in (True, False)}
    assert any(net.line.duplicated(["from_bus", "to_bus"]).any() for net in nets)
