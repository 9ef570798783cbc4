"""Random parties for the laws of the protocols, float64."""

from typing import NamedTuple

import torch
from torch import Tensor


class Market(NamedTuple):
    """B copies of a feeder and A microgrids; import positive."""

    party_p_mw: Tensor  # (B, 1 + A)
    limit: Tensor  # (B, A) $/MWh
    price: Tensor  # (B,) lambda

    @property
    def p_mw(self) -> Tensor:
        return self.party_p_mw[:, 1:]


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def random_market(agents: int, *, copies: int = 3000, seed: int = 0) -> Market:
    """Powers of both signs and, in parts of the batch, all buyers, all sellers, zeros, ties and negative prices."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, dtype=torch.float64)

    party_p_mw = 4 * uniform(copies, 1 + agents) - 2
    price = 150 * uniform(copies)
    limit = price[:, None] * (1.4 * uniform(copies, agents) + 0.1)  # also outside the utility's prices
    part = copies // 8
    party_p_mw[:part, 1:] = party_p_mw[:part, 1:].abs()
    party_p_mw[part : 2 * part, 1:] = -party_p_mw[part : 2 * part, 1:].abs()
    party_p_mw[2 * part : 3 * part][uniform(part, 1 + agents) < 0.5] = 0.0
    ties = slice(3 * part, 5 * part)
    limit[ties] = price[ties, None] * (0.5 + 0.25 * (3 * uniform(2 * part, agents)).floor())
    party_p_mw[ties] = party_p_mw[ties].round()
    price[5 * part : 6 * part] *= -1
    return Market(party_p_mw, limit, price)
