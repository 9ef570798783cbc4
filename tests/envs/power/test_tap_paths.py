"""Chains of tap changers, against membership in subtrees."""

from dataclasses import replace

import pytest
import torch

from envs.composition import build_network
from envs.power.network import Network
from envs.power.tap_paths import TapPaths
from envs.scenario import load_scenario

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["ieee34_ieee13", "ieee123", "substation"])
def net(request: pytest.FixtureRequest) -> Network:
    return build_network(load_scenario(request.param))


def test_chains_are_the_regulators_on_the_path(net: Network) -> None:
    regulated = torch.tensor([regulator.bus for regulator in net.regulators])
    on_path = net.below(regulated)  # (R, N)
    paths = TapPaths(net, CPU)
    for bus in range(net.num_buses):
        assert paths.to_bus(bus) == torch.nonzero(on_path[:, bus]).flatten().tolist()
    assert paths.depth == int(on_path.sum(0).max())


def test_values_run_down_the_chains(net: Network) -> None:
    regulated = torch.tensor([regulator.bus for regulator in net.regulators])
    values = torch.randn(3, len(regulated), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    on_path = net.below(regulated).double()
    paths = TapPaths(net, CPU)
    above = on_path[:, regulated].fill_diagonal_(0.0)
    torch.testing.assert_close(paths.upstream(values), values @ above)
    ratios = paths.products(values.exp())
    torch.testing.assert_close(ratios[:, paths.nearest], (values @ on_path).exp())


def test_a_network_without_regulators_has_no_chains(net: Network) -> None:
    paths = TapPaths(replace(net, regulators=()), CPU)
    assert paths.depth == 0
    assert paths.to_bus(net.num_buses - 1) == []
    assert paths.products(torch.zeros(2, 0)).tolist() == [[1.0], [1.0]]
    assert paths.nearest.tolist() == [0] * net.num_buses
