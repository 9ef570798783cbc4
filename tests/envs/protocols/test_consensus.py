import itertools
import random

import pytest
import torch
from torch import Tensor

from envs.protocols.consensus import TOPOLOGIES, agree, graph_edges, marginal_cost, metropolis_weights, mixing, settle
from envs.tariff import pool_settlement, utility_bill
from tests.envs.protocols.parties import random_market, row

RULE = {"export_share": 0.5, "dt_h": 0.25}


def names(count: int) -> tuple[str, ...]:
    return tuple(f"MG{i + 1}" for i in range(count))


def random_graph(seed: int) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """A random tree with some edges more: connected."""
    draw = random.Random(seed)
    agents = names(draw.randint(1, 9))
    edges = [(agents[draw.randrange(i)], agents[i]) for i in range(1, len(agents))]
    for _ in range(draw.randint(0, 6) if len(agents) > 1 else 0):
        first, second = draw.sample(agents, 2)
        edges.append((first, second))
    return agents, edges


def random_values(agents: int, seed: int = 0) -> Tensor:
    return 30 + 90 * torch.rand(200, agents, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_metropolis_weights_by_hand() -> None:
    weights = metropolis_weights(names(3), "line")
    third = 1 / 3
    expected = torch.tensor([[2 * third, third, 0], [third, third, third], [0, third, 2 * third]]).double()
    assert torch.allclose(weights, expected)


@pytest.mark.parametrize("seed", range(25))
def test_consensus_keeps_the_mean_on_every_connected_graph(seed: int) -> None:
    agents, edges = random_graph(seed)
    weights = metropolis_weights(agents, edges)
    values = random_values(len(agents), seed)
    assert torch.equal(weights, weights.T)
    assert (weights >= 0).all()
    for rounds in (1, 7):
        agreed = agree(values, mixing(weights, rounds=rounds)).values
        assert (agreed.mean(-1) - values.mean(-1)).abs().max() < 1e-11
        assert (agreed <= values.amax(-1, keepdim=True) + 1e-11).all()
        assert (agreed >= values.amin(-1, keepdim=True) - 1e-11).all()


def test_consensus_is_that_many_rounds_of_talking_to_neighbours() -> None:
    agents, edges = random_graph(3)
    weights, values = metropolis_weights(agents, edges), random_values(len(agents))
    stepwise = values
    for _ in range(6):
        own = stepwise
        stepwise = torch.zeros_like(values)
        for i, j in itertools.product(range(len(agents)), repeat=2):
            stepwise[:, i] += weights[i, j] * own[:, j]
    result = agree(values, mixing(weights, rounds=6))
    assert torch.allclose(result.values, stepwise)
    assert result.rounds == 6
    spread = (stepwise - values.mean(-1, keepdim=True)).abs().amax(-1)
    assert torch.allclose(result.residual, spread)


@pytest.mark.parametrize("tolerance", [0.3, 1e-3, 1e-8])
@pytest.mark.parametrize("seed", range(10))
def test_consensus_convergence_is_within_the_tolerance_on_random_graphs(seed: int, tolerance: float) -> None:
    agents, edges = random_graph(seed)
    weights, values = metropolis_weights(agents, edges), random_values(len(agents), seed)
    result = agree(values, mixing(weights, tolerance=tolerance))

    def disagreement(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)).norm(dim=-1)

    assert (disagreement(result.values) <= tolerance * disagreement(values) + 1e-10).all()


def test_the_rounds_of_a_tolerance_are_no_more_than_the_worst_values_need() -> None:
    weights = metropolis_weights(names(6), "line")
    mix = mixing(weights, tolerance=1e-3)
    _, vectors = torch.linalg.eigh(weights)
    slowest = vectors[:, -2:-1].T
    assert agree(slowest, mix).values.norm() <= 1e-3
    assert agree(slowest, mixing(weights, rounds=mix.rounds - 1)).values.norm() > 1e-3


def test_two_camps_that_swap_their_opinions_converge_within_the_tolerance() -> None:
    # K_3,3: its eigenvalue of second largest modulus is -1/2, so opposite camps swing around the mean
    camps = [(one, other) for one in names(6)[:3] for other in names(6)[3:]]
    mix = mixing(metropolis_weights(names(6), camps), tolerance=0.01)
    opposed = row(1.0, 1.0, 1.0, -1.0, -1.0, -1.0)
    assert mix.rounds == 7
    assert agree(opposed, mix).values[0].tolist() == pytest.approx((opposed[0] * (-0.5) ** 7).tolist())


@pytest.mark.parametrize("edges", TOPOLOGIES)
def test_consensus_with_a_topology_agrees_on_the_mean(edges: str) -> None:
    for count in (1, 2, 3, 6):
        values = random_values(count)
        result = agree(values, mixing(metropolis_weights(names(count), edges), rounds=500))
        assert (result.values - values.mean(-1, keepdim=True)).abs().max() < 1e-9
        assert result.residual.max() < 1e-9


def test_topologies_link_whom_their_names_say() -> None:
    assert graph_edges(names(4), "line") == [(0, 1), (1, 2), (2, 3)]
    assert set(graph_edges(names(4), "ring")) == {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert graph_edges(names(4), "star") == [(0, 1), (0, 2), (0, 3)]
    assert len(graph_edges(names(4), "complete")) == 6
    assert graph_edges(names(2), "ring") == [(0, 1)]
    assert torch.equal(metropolis_weights(names(5)), metropolis_weights(names(5), "ring"))
    assert graph_edges(names(1), "ring") == graph_edges(names(1), []) == []


def test_a_complete_graph_needs_one_round_and_a_longer_line_more() -> None:
    def rounds(count: int, edges: str) -> int:
        return mixing(metropolis_weights(names(count), edges), tolerance=1e-6).rounds

    assert rounds(5, "complete") == rounds(1, "line") == 1
    assert 1 < rounds(4, "ring") < rounds(4, "line") < rounds(8, "line")


def test_an_edge_given_twice_counts_once() -> None:
    once = metropolis_weights(names(3), [("MG1", "MG2"), ("MG2", "MG3")])
    assert torch.equal(once, metropolis_weights(names(3), [("MG1", "MG2"), ("MG2", "MG1"), ("MG3", "MG2")]))


def test_a_disconnected_graph_is_refused_with_its_parts() -> None:
    with pytest.raises(ValueError, match=r"\[MG1, MG3\] and \[MG2\] and \[MG4, MG5\] are not linked.*\[MG1, MG2\]"):
        metropolis_weights(names(5), [("MG1", "MG3"), ("MG5", "MG4")])
    chains = [("MG1", "MG5"), ("MG5", "MG2"), ("MG2", "MG6"), ("MG3", "MG4")]
    with pytest.raises(ValueError, match=r"\[MG1, MG2, MG5, MG6\] and \[MG3, MG4\] are not linked"):
        metropolis_weights(names(6), chains)
    with pytest.raises(ValueError, match=r"\[MG1\] and \[MG2\] are not linked"):
        metropolis_weights(names(2), [])


def test_bad_edges_name_the_setting() -> None:
    with pytest.raises(ValueError, match=r"consensus.edges names 'MG9', .* use MG1, MG2, MG3"):
        metropolis_weights(names(3), [("MG1", "MG9")])
    with pytest.raises(ValueError, match=r"consensus.edges links MG2 with itself"):
        metropolis_weights(names(3), [("MG2", "MG2")])
    with pytest.raises(ValueError, match=r"consensus.edges must be one of ring, line, star, complete .* got 'tree'"):
        metropolis_weights(names(3), "tree")
    with pytest.raises(ValueError, match=r"consensus.edges must be pairs such as \[MG1, MG3\], got \('MG1',\)"):
        metropolis_weights(names(3), [("MG1",)])
    with pytest.raises(ValueError, match=r"consensus.edges must be pairs"):
        metropolis_weights(names(3), ["MG"])


def test_bad_rounds_and_tolerances_name_the_setting() -> None:
    weights = metropolis_weights(names(3), "ring")
    with pytest.raises(ValueError, match=r"consensus.rounds must be at least 1, got 0"):
        mixing(weights, rounds=0)
    with pytest.raises(ValueError, match=r"consensus.tolerance must be in \(0, 1\), got 1"):
        mixing(weights, tolerance=1.0)
    with pytest.raises(ValueError, match="got both"):
        mixing(weights, rounds=3, tolerance=0.1)
    assert mixing(weights).rounds == 10


def test_marginal_cost_by_hand() -> None:
    cost = marginal_cost(
        row(0.1, 0.5, 0.0, 0.4, 0.0),
        row(0.5, 0.5, 0.5, 0.5, 0.0)[0],
        row(100.0)[0],
        cost_quadratic=row(100.0, 100.0, 100.0, 100.0, 100.0)[0],
        cost_linear=row(50.0, 50.0, 20.0, 50.0, 50.0)[0],
        export_share=0.5,
    )
    # 2 a P + b; nothing left to raise; clipped to the export price; clipped to the import price; no generator
    assert cost[0].tolist() == [70.0, 100.0, 50.0, 100.0, 100.0]


def test_consensus_trades_at_the_agreed_price_by_hand() -> None:
    # 3 MW wanted, 1 MW on offer, all agree on 70: each buyer gets a third of what it wants
    result = settle(row(1.0, 2.0, 1.0, -1.0), row(70.0, 70.0, 70.0), row(100.0)[0], export_share=0.5, dt_h=1.0)
    assert result.bought_mwh[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert result.price_usd_per_mwh[0].tolist() == pytest.approx([70.0, 70.0, 70.0])
    assert result.usd[0].tolist() == pytest.approx([100.0, 140 / 3 + 400 / 3, 70 / 3 + 200 / 3, -70.0])
    assert result.saving_usd[0].tolist() == pytest.approx([20.0, 10.0, 20.0])


def test_partners_that_disagree_meet_in_the_middle() -> None:
    # the seller's partners value 80 (2/3 of its sale) and 60 (1/3)
    result = settle(row(0.0, 2.0, 1.0, -1.0), row(80.0, 60.0, 70.0), row(100.0)[0], export_share=0.5, dt_h=1.0)
    assert result.price_usd_per_mwh[0].tolist() == pytest.approx([75.0, 65.0, 70 / 2 + (160 + 60) / 6])


@pytest.mark.parametrize("pool_share", [None, 0.75])
@pytest.mark.parametrize("agents", [1, 2, 3, 6])
def test_money_and_energy_balance_however_far_the_values_are_apart(agents: int, pool_share: float | None) -> None:
    market = random_market(agents)
    result = settle(market.party_p_mw, market.limit, market.price, pool_share=pool_share, **RULE)
    residual = torch.cat([market.party_p_mw[:, :1], result.residual_p_mw], -1)
    if pool_share is None:
        total = utility_bill(residual, market.price, **RULE).sum(-1)
    else:  # the community pays the same head bill as without trading
        total = utility_bill(market.party_p_mw.sum(-1), market.price, **RULE)
    assert (result.usd.sum(-1) - total).abs().max() < 1e-9
    assert (result.bought_mwh.sum(-1) - result.sold_mwh.sum(-1)).abs().max() < 1e-12
    own_mwh = RULE["dt_h"] * market.p_mw
    assert (result.bought_mwh <= own_mwh.clamp(min=0.0) + 1e-12).all()
    assert (result.sold_mwh <= (-own_mwh).clamp(min=0.0) + 1e-12).all()
    assert (RULE["dt_h"] * result.residual_p_mw + result.bought_mwh - result.sold_mwh - own_mwh).abs().max() < 1e-12


def test_consensus_matches_all_that_it_can_at_prices_that_are_not_negative() -> None:
    market = random_market(4)
    result = settle(market.party_p_mw, market.limit, market.price, **RULE)
    wanted, offered = market.p_mw.clamp(min=0.0).sum(-1), (-market.p_mw).clamp(min=0.0).sum(-1)
    expected = RULE["dt_h"] * torch.minimum(wanted, offered) * (market.price >= 0)
    assert (result.bought_mwh.sum(-1) - expected).abs().max() < 1e-12
    assert expected.any()


def test_nobody_is_worse_off_with_the_internal_price_than_with_the_utility() -> None:
    market = random_market(4)  # the values reach beyond the utility's prices and are clipped
    result = settle(market.party_p_mw, market.limit, market.price, **RULE)
    alone = utility_bill(market.party_p_mw, market.price, **RULE)
    assert (result.usd <= alone + 1e-9).all()
    assert torch.equal(result.usd[:, 0], alone[:, 0])
    assert result.saving_usd.max() > 1.0
    assert torch.allclose(result.saving_usd, (alone - result.usd)[:, 1:], rtol=0, atol=1e-12)


def test_no_horizontal_protocol_and_a_consensus_without_partners_cost_the_same() -> None:
    market = random_market(4)
    parties = torch.cat([market.party_p_mw[:, :1], market.p_mw.abs()], -1)
    result = settle(parties, market.limit, market.price, **RULE)
    assert torch.equal(result.usd, utility_bill(parties, market.price, **RULE))
    assert not result.price_usd_per_mwh.any()
    pooled = settle(parties, market.limit, market.price, pool_share=0.75, **RULE)
    assert torch.equal(pooled.usd, pool_settlement(parties, market.price, pool_share=0.75, **RULE))
