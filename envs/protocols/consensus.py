"""Horizontal protocol `consensus`: neighbours average their marginal costs; the agreed value is the internal price.

Data flow: graph -> `metropolis_weights` -> `mixing` (one matrix, at load); every step `marginal_cost` -> `agree`
(observed) -> `settle` of internal trade. Averaging with symmetric Metropolis weights keeps the mean and contracts to
it on every connected graph (Xiao and Boyd 2004, doi:10.1016/j.sysconle.2004.02.022).
"""

from collections.abc import Sequence
from math import ceil, log
from typing import NamedTuple

import torch
from torch import Tensor

from envs.protocols.money import between, check_names, generator_marginal_cost, utility_prices
from envs.tariff import pool_settlement, utility_bill

ROUNDS, EDGES = 10, "ring"
TOPOLOGIES = ("ring", "line", "star", "complete")


class Mixing(NamedTuple):
    """All rounds of averaging as one matrix; move `matrix` to the values' device and dtype once, at load."""

    matrix: Tensor  # (A, A) float64, W^rounds: symmetric, rows sum to 1, no negative entry
    rounds: int  # messages over every edge, in both directions
    contraction: float  # of one round: the disagreement's 2-norm shrinks at least by this factor


class Agreement(NamedTuple):
    """Where the microgrids stand after the rounds."""

    values: Tensor  # (B, A) $/MWh
    residual: Tensor  # (B,) $/MWh, largest distance of a value from their mean
    rounds: int


class InternalTrade(NamedTuple):
    """What trading at the agreed price did. Parties are the feeder, then the microgrids."""

    bought_mwh: Tensor  # (B, A)
    sold_mwh: Tensor  # (B, A)
    price_usd_per_mwh: Tensor  # (B, A) mean price of its trades; 0 without trade
    residual_p_mw: Tensor  # (B, A) exchange that is settled with the utility or in the pool
    usd: Tensor  # (B, 1 + A) each party pays: trades and the settlement of the rest
    saving_usd: Tensor  # (B, A) against the same settlement without internal trade


def graph_edges(agents: Sequence[str], edges: str | Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Index pairs of a named topology or of pairs of names; an edge given twice, either way round, counts once.

    Args:
        agents: names of the microgrids.
        edges: `ring`, `line` and `complete` in the agents' order, `star` around the first; or pairs of names.

    Raises:
        ValueError: an unknown topology or microgrid, something other than pairs, an edge from a microgrid to itself.
    """
    count = len(agents)
    if isinstance(edges, str):
        line = [(i, i + 1) for i in range(count - 1)]
        named = {
            "line": line,
            "ring": [*line, (0, count - 1)] if count > 2 else line,
            "star": [(0, i) for i in range(1, count)],
            "complete": [(i, j) for i in range(count) for j in range(i + 1, count)],
        }
        if edges not in named:
            raise ValueError(
                f"protocols.consensus.edges must be one of {', '.join(TOPOLOGIES)} or a list of pairs, got {edges!r}"
            )
        return named[edges]
    pairs: set[tuple[int, int]] = set()
    for edge in edges:
        if isinstance(edge, str) or len(edge) != 2:
            raise ValueError(
                f"protocols.consensus.edges must be pairs such as [{agents[0]}, {agents[-1]}], got {edge!r}"
            )
        check_names("protocols.consensus.edges", edge, agents)
        i, j = sorted(agents.index(name) for name in edge)
        if i == j:
            raise ValueError(f"protocols.consensus.edges links {agents[i]} with itself; remove that edge")
        pairs.add((i, j))
    return sorted(pairs)


def metropolis_weights(agents: Sequence[str], edges: str | Sequence[Sequence[str]] = EDGES) -> Tensor:
    """(A, A) float64 weights: w_ij = 1 / (1 + max(degree_i, degree_j)) on an edge, w_ii = 1 - the rest of the row.

    Symmetric with rows that sum to 1, so the mean stays; positive diagonal, so a connected graph converges.

    Args:
        agents: names of the microgrids.
        edges: as in `graph_edges`.

    Raises:
        ValueError: as in `graph_edges`, and a disconnected graph (its parts are named).
    """
    count = len(agents)
    linked = torch.zeros(count, count, dtype=torch.bool)
    for i, j in graph_edges(agents, edges):
        linked[i, j] = linked[j, i] = True
    if len(parts := _parts(linked)) > 1:
        names = " and ".join(f"[{', '.join(agents[i] for i in part)}]" for part in parts)
        raise ValueError(
            f"protocols.consensus.edges must connect all microgrids, but {names} are not linked; add an edge such as "
            f"[{agents[parts[0][0]]}, {agents[parts[1][0]]}]"
        )
    degree = linked.sum(-1).to(torch.float64)
    weights = linked / (1 + torch.maximum(degree[:, None], degree))
    return weights + torch.diag(1 - weights.sum(-1))


def mixing(weights: Tensor, *, rounds: int | None = None, tolerance: float | None = None) -> Mixing:
    """The matrix of a number of rounds, or of as many as a tolerance needs.

    With s the second largest modulus of an eigenvalue, |x_k - mean|_2 <= s^k |x_0 - mean|_2, so k = log(tolerance) /
    log(s) rounds, rounded up, are enough for any values; the number does not depend on them.

    Args:
        weights: (A, A) from `metropolis_weights`.
        rounds: of averaging, at least 1; None with a tolerance, or for the default of 10.
        tolerance: share of the initial disagreement (2-norm) that may remain, in (0, 1).

    Raises:
        ValueError: both given, or a value outside its range.
    """
    if rounds is not None and tolerance is not None:
        raise ValueError(
            f"give protocols.consensus.rounds or protocols.consensus.tolerance, got both ({rounds} and {tolerance})"
        )
    contraction = float(torch.linalg.eigvalsh(weights - 1 / len(weights)).abs().max())
    if tolerance is not None:
        if not 0 < tolerance < 1:
            raise ValueError(f"protocols.consensus.tolerance must be in (0, 1), got {tolerance}")
        rounds = 1 if contraction <= tolerance else ceil(log(tolerance) / log(contraction))
    rounds = ROUNDS if rounds is None else rounds
    if rounds < 1:
        raise ValueError(f"protocols.consensus.rounds must be at least 1, got {rounds}")
    return Mixing(torch.linalg.matrix_power(weights, rounds), rounds, contraction)


def agree(values: Tensor, mix: Mixing) -> Agreement:
    """Average (B, A) values with the neighbours for all rounds at once."""
    agreed = values @ mix.matrix
    residual = (agreed - agreed.mean(-1, keepdim=True)).abs().amax(-1)
    return Agreement(agreed, residual, mix.rounds)


def marginal_cost(
    generator_p_mw: Tensor,
    generator_p_max_mw: Tensor,
    price: Tensor,
    *,
    cost_quadratic: Tensor,
    cost_linear: Tensor,
    export_share: float,
) -> Tensor:
    """(B, A) $/MWh of one more MWh: 2 a P + b, the import price at full output; clipped into the utility's prices.

    Args:
        generator_p_mw: (B, A) output.
        generator_p_max_mw: (A,) largest output; 0: no generator.
        price: (B,) lambda in $/MWh.
        cost_quadratic: (A,) a in $/(MW^2 h).
        cost_linear: (A,) b in $/MWh.
        export_share: export price / lambda.
    """
    export_price, import_price = utility_prices(price, export_share)
    own = generator_marginal_cost(generator_p_mw, cost_quadratic, cost_linear)
    return torch.where(generator_p_mw < generator_p_max_mw, between(own, export_price, import_price), import_price)


def settle(
    party_p_mw: Tensor,
    agreed: Tensor,
    price: Tensor,
    *,
    export_share: float,
    dt_h: float,
    pool_share: float | None = None,
) -> InternalTrade:
    """Trade min(total import, total export) of the microgrids, pro rata, at the agreed price; settle the rest.

    Importer i gets b_i = m+_i X / B and exporter j gives s_j = m-_j X / S, of which b_i s_j / X passes from j to i at
    (value_i + value_j) / 2: money balances however far the values are apart, and a pair needs no third party. Values
    are clipped into the utility's prices. With a negative lambda nothing is traded.

    Args:
        party_p_mw: (B, 1 + A) power of each party; the feeder's (first) takes no part in the trade.
        agreed: (B, A) $/MWh from `agree`.
        price: (B,) lambda in $/MWh.
        export_share: export price / lambda.
        dt_h: length of the step.
        pool_share: None: the rest is billed by the utility, connection by connection (`settlement: individual`);
            else it goes into the community's pool at this share of lambda (`settlement: community`).
    """
    terms = {"export_share": export_share, "dt_h": dt_h}
    export_price, import_price = utility_prices(price, export_share)
    value = between(agreed, export_price, import_price)
    p_mw = party_p_mw[:, 1:]
    imports, exports = p_mw.clamp(min=0.0), (-p_mw).clamp(min=0.0)
    total_import, total_export = imports.sum(-1, keepdim=True), exports.sum(-1, keepdim=True)
    matched = torch.where(import_price >= export_price, torch.minimum(total_import, total_export), 0.0)
    bought_mw = _ratio(imports * matched, total_import)
    sold_mw = _ratio(exports * matched, total_export)
    sellers_value = _ratio((sold_mw * value).sum(-1, keepdim=True), matched)  # mean over the partners
    buyers_value = _ratio((bought_mw * value).sum(-1, keepdim=True), matched)
    buyer_price, seller_price = (value + sellers_value) / 2, (value + buyers_value) / 2
    trade_usd = dt_h * (bought_mw * buyer_price - sold_mw * seller_price)
    residual_p_mw = p_mw - bought_mw + sold_mw
    rest_p_mw = torch.cat([party_p_mw[:, :1], residual_p_mw], -1)
    usd = _settled(rest_p_mw, price, pool_share, **terms) + torch.cat([torch.zeros_like(matched), trade_usd], -1)
    traded_price = torch.where(bought_mw > 0, buyer_price, torch.where(sold_mw > 0, seller_price, 0.0))
    return InternalTrade(
        bought_mwh=dt_h * bought_mw,
        sold_mwh=dt_h * sold_mw,
        price_usd_per_mwh=traded_price,
        residual_p_mw=residual_p_mw,
        usd=usd,
        saving_usd=(_settled(party_p_mw, price, pool_share, **terms) - usd)[:, 1:],
    )


def _settled(
    party_p_mw: Tensor, price: Tensor, pool_share: float | None, *, export_share: float, dt_h: float
) -> Tensor:
    """(B, 1 + A) $ without internal trade: by the utility, or by the community's pool."""
    if pool_share is None:
        return utility_bill(party_p_mw, price, export_share=export_share, dt_h=dt_h)
    return pool_settlement(party_p_mw, price, export_share=export_share, pool_share=pool_share, dt_h=dt_h)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Quotient, 0 where the whole is 0."""
    return torch.where(whole > 0, part / whole, 0.0)


def _parts(linked: Tensor) -> list[list[int]]:
    """Connected parts of a graph (A, A) bool, each in order, the first microgrid's first."""
    count = len(linked)
    reach = torch.eye(count, dtype=torch.bool) | linked
    for _ in range(count.bit_length()):  # squaring doubles the length of the walks
        reach = (reach.to(torch.float64) @ reach.to(torch.float64)) > 0
    rows = reach.tolist()
    return [
        [j for j in range(count) if rows[i][j]]
        for i in range(count)
        if i == next(j for j in range(count) if rows[i][j])
    ]
