"""Blocks of a tree, and both ways to sum over subtrees and paths, against loops, on random trees of all shapes."""

import pytest
import torch

from envs.composition import build_network
from envs.power import tree_sums
from envs.power.blocks import Blocks, best_size
from envs.power.tree_sums import BlockSums, DenseSums
from envs.scenario import load_scenario

CPU, DOUBLE = torch.device("cpu"), torch.float64


def random_tree(buses: int, rng: torch.Generator, *, reach: int) -> list[int]:
    """Parent of each bus in depth-first order; a new bus hangs on one of the last `reach` buses of the present path."""
    parents, path = [0], [0]
    for bus in range(1, buses):
        del path[len(path) - int(torch.randint(0, min(reach, len(path)), (1,), generator=rng)) :]
        parents.append(path[-1])
        path.append(bus)
    return parents


TREES = {
    "one bus": [0],
    "chain": [max(bus - 1, 0) for bus in range(40)],
    "star": [0] * 40,
    "equal feeders": [0, *(10 * k + (bus if bus else -10 * k) for k in range(4) for bus in range(10))],
    **{f"random, reach {r}": random_tree(90, torch.Generator().manual_seed(r), reach=r) for r in (1, 2, 3, 8, 90)},
}


@pytest.mark.parametrize("parents", TREES.values(), ids=TREES)
@pytest.mark.parametrize("most", [2, 3, 10, 1000])
@pytest.mark.parametrize("dense", [1, 8])
def test_both_give_what_a_loop_gives(
    parents: list[int], most: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_sums, "BLOCK_NODES", most)
    monkeypatch.setattr(tree_sums, "DENSE_NODES", dense)  # blocks of blocks of blocks
    buses = len(parents)
    values = torch.randn(buses, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    subtree, path = values.clone(), values.clone()
    for bus in range(1, buses):
        path[bus] += path[parents[bus]]
    for bus in range(buses - 1, 0, -1):
        subtree[parents[bus]] += subtree[bus]
    for sums in (DenseSums(parents, CPU, DOUBLE), BlockSums(parents, CPU, DOUBLE)):
        found = torch.full_like(values, torch.nan)
        sums.downstream(values, out=found)
        torch.testing.assert_close(found, subtree, rtol=0, atol=1e-12)
        sums.path(values, out=found)
        torch.testing.assert_close(found, path, rtol=0, atol=1e-12)


@pytest.mark.parametrize("parents", TREES.values(), ids=TREES)
@pytest.mark.parametrize("most", [1, 4, 1000])
def test_blocks_hang_together_below_one_node_of_an_earlier_block(parents: list[int], most: int) -> None:
    ends = set(range(3, len(parents), 7))
    blocks = Blocks(parents, most, ends)
    assert blocks.size <= most
    assert len(set(blocks.place.tolist())) == len(parents) == int(blocks.filled.sum())
    assert torch.equal(blocks.node[blocks.place], torch.arange(len(parents)))
    block = (blocks.place // blocks.size).tolist()
    assert block[0] == 0
    for node, parent in enumerate(parents[1:], start=1):
        if block[node] == block[parent]:
            assert parent not in ends
        else:
            assert parent == blocks.above[block[node]]
            assert block[parent] == blocks.parent[block[node]] < block[node]


def test_what_hangs_on_one_node_shares_blocks() -> None:
    assert Blocks(TREES["star"], 10).count == 4
    assert Blocks(TREES["chain"], 10).count == 4
    assert Blocks(TREES["equal feeders"], 20).count == 3  # two feeders each, and the source


def test_the_default_network_fills_its_blocks() -> None:
    net = build_network(load_scenario("ieee34_ieee13"))
    parent, regulated = net.parent.tolist(), {regulator.bus for regulator in net.regulators}
    blocks = Blocks(parent, best_size(parent, regulated), regulated)
    assert blocks.filled.double().mean() > 0.8


def test_large_trees_go_in_blocks_and_small_ones_do_not() -> None:
    assert isinstance(tree_sums.tree_sums(TREES["chain"], CPU, DOUBLE), DenseSums)
    assert isinstance(tree_sums.tree_sums([max(bus - 1, 0) for bus in range(500)], CPU, DOUBLE), BlockSums)
