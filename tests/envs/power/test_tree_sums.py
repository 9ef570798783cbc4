"""The three ways to sum over subtrees and paths, against loops over the tree, on random trees of all shapes."""

import pytest
import torch
from torch import Tensor

from envs.composition import build_network
from envs.power import tree_sums
from envs.power.tree_sums import BlockSums, DenseSums, PrefixSums
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


def ends_of(parents: list[int]) -> Tensor:
    sizes = [1] * len(parents)
    for bus in range(len(parents) - 1, 0, -1):
        sizes[parents[bus]] += sizes[bus]
    return torch.tensor([bus + size for bus, size in enumerate(sizes)])


TREES = {
    "one bus": [0],
    "chain": [max(bus - 1, 0) for bus in range(40)],
    "star": [0] * 40,
    "equal feeders": [0, *(10 * k + (bus if bus else -10 * k) for k in range(4) for bus in range(10))],
    **{f"random, reach {r}": random_tree(90, torch.Generator().manual_seed(r), reach=r) for r in (1, 2, 3, 8, 90)},
}


@pytest.mark.parametrize("parents", TREES.values(), ids=TREES)
@pytest.mark.parametrize("block_buses", [1, 3, 10, 1000])
@pytest.mark.parametrize("folded_blocks", [2, 1000])
def test_all_give_what_a_loop_gives(
    parents: list[int], block_buses: int, folded_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_sums, "BLOCK_BUSES", block_buses)
    monkeypatch.setattr(tree_sums, "FOLDED_BLOCKS", folded_blocks)
    ends, buses = ends_of(parents), len(parents)
    values = torch.randn(2, 3, buses, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    subtree, path = values.clone(), values.clone()
    for bus in range(1, buses):
        path[..., bus] += path[..., parents[bus]]
    for bus in range(buses - 1, 0, -1):
        subtree[..., parents[bus]] += subtree[..., bus]
    for sums in (DenseSums(ends, CPU, DOUBLE), BlockSums(ends, CPU, DOUBLE), PrefixSums(ends, CPU)):
        torch.testing.assert_close(sums.downstream(values), subtree, rtol=0, atol=1e-12)
        torch.testing.assert_close(sums.path(values), path, rtol=0, atol=1e-12)


def test_the_choice_follows_size_and_shape() -> None:
    def chosen(ends: Tensor) -> type:
        return type(tree_sums.tree_sums(ends, CPU, DOUBLE))

    assert chosen(build_network(load_scenario("ieee34_ieee13")).subtree_end) is DenseSums
    for scenario in ("substation", "ieee123"):
        assert chosen(build_network(load_scenario(scenario)).subtree_end) is BlockSums
    assert chosen(ends_of([max(bus - 1, 0) for bus in range(500)])) is PrefixSums  # hardly anything but trunk
    assert chosen(ends_of([0] * 500)) is PrefixSums  # blocks of one bus each
