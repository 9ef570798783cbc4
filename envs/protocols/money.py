"""What the protocols share: the utility's two prices, the marginal cost of a generator, transfers that balance.

Data flow: lambda, generator powers -> prices -> `auction.py`, `consensus.py`; dollars of agents -> parties.
"""

import difflib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def utility_prices(price: Tensor, export_share: float) -> tuple[Tensor, Tensor]:
    """Export and import price of the utility, (B, 1) each in $/MWh, from lambda (B,).

    With a negative lambda the export price is the higher one: the utility pays more for consumption than it charges
    for feeding in, and no internal trade can make both sides better off.
    """
    return export_share * price[:, None], price[:, None]


def between(values: Tensor, one_end: Tensor, other_end: Tensor) -> Tensor:
    """`values` clipped into the interval of two ends, given in either order; shapes broadcast."""
    low, high = torch.minimum(one_end, other_end), torch.maximum(one_end, other_end)
    return torch.minimum(torch.maximum(values, low), high)


def generator_marginal_cost(generator_p_mw: Tensor, cost_quadratic: Tensor, cost_linear: Tensor) -> Tensor:
    """(B, A) $/MWh: 2 a P + b, the derivative of the cost a P^2 + b P + c.

    Args:
        generator_p_mw: (B, A) output.
        cost_quadratic: (A,) a in $/(MW^2 h).
        cost_linear: (A,) b in $/MWh.
    """
    return 2 * cost_quadratic * generator_p_mw + cost_linear


def transfers(agents_usd: Tensor) -> Tensor:
    """(B, 1 + A) $ each party pays: the agents' payments (B, A) go to the feeder's party, so that the sum is 0."""
    return torch.cat([-agents_usd.sum(-1, keepdim=True), agents_usd], -1)


def check_names(setting: str, given: Iterable[str], agents: Sequence[str]) -> None:
    """Raise ValueError for a name that is no microgrid; says the setting, and the nearest name."""
    for name in given:
        if name not in agents:
            near = difflib.get_close_matches(str(name), agents, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{setting} names {name!r}, which is no microgrid; use {', '.join(agents)}{hint}")
