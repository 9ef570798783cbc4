"""Counter-based random numbers: each draw is a hash of (seed, copy, episode, draw number).

No generator state exists, so a copy's numbers depend neither on the number of copies nor on their order, and a
checkpoint needs only the episode counters.
"""

from math import pi

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the splitmix64 increment, as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014, doi:10.1145/2714064.2660195); int64 wraps around."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(seed: int, copy: Tensor, episode: Tensor, draws: range) -> Tensor:
    """Uniform numbers in [0, 1), (B, len(draws)) float64.

    Args:
        seed: of the run.
        copy: (B,) int64 number of each copy.
        episode: (B,) int64 number of each copy's episode.
        draws: which draws of the episode.
    """
    draw = torch.arange(draws.start, draws.stop, draws.step, dtype=torch.int64, device=copy.device)
    x = _mix(torch.tensor(seed, dtype=torch.int64, device=copy.device) + _GOLDEN)
    x = _mix(x + copy * _GOLDEN)
    x = _mix(x + episode * _GOLDEN)
    x = _mix(x[:, None] + (draw + 1) * _GOLDEN)
    return _shift_right(x, 11).to(torch.float64) * 2.0**-53


def normal(seed: int, copy: Tensor, episode: Tensor, draws: range) -> Tensor:
    """Standard normal numbers, (B, len(draws)) float64, by Box and Muller; uses draws 2d and 2d + 1 for each d."""
    pairs = uniform(seed, copy, episode, range(2 * draws.start, 2 * draws.stop))
    radius = torch.sqrt(-2.0 * torch.log1p(-pairs[:, 0::2]))
    return radius * torch.cos(2.0 * pi * pairs[:, 1::2])
