"""A fixed piece of work that every rate is also given in multiples of.

Data flow: `ReferenceLoop.rate` beside each repetition (`rates.py`) -> `Rate.per_loop` -> `stored.py`. A machine that is
slower, or busy, slows the loop as well, so these ratios can be compared where rates cannot. The mix is that of the
project: products with the tree sums of a power flow and with the layers of a small network, and the elementwise work
between them. It must not change, or stored ratios lose their meaning.
"""

import time

import torch

from benchmarking.device import synchronise

LOOP_S = 0.2
"""Least time that one measurement of the loop takes."""
COPIES, BUSES, AGENTS, HIDDEN = 1024, 72, 3, 64


class ReferenceLoop:
    """Flow-like and network-like operations in float32 on one device, on the threads that torch has."""

    def __init__(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)

        def positive(*shape: int) -> torch.Tensor:
            return (0.5 + torch.rand(shape, generator=generator)).to(device)

        self._device = device
        self._u, self._power, self._sums = (
            positive(2, COPIES, BUSES),
            positive(2, COPIES, BUSES),
            positive(BUSES, BUSES),
        )
        self._obs, self._weight = positive(COPIES * AGENTS, HIDDEN), positive(HIDDEN, HIDDEN) / HIDDEN

    def once(self) -> torch.Tensor:
        """One round of the mix; its result means nothing."""
        u = self._u
        for _ in range(6):  # sweeps of a flow
            weight = torch.addcmul(u[0] * u[0], u[1], u[1]).reciprocal_()
            current = self._power * weight
            current[0].addcmul_(current[1], u[1])
            change = current.flatten(0, 1) @ self._sums
            u = torch.sigmoid(change.view_as(u)).add_(0.5)
        hidden = self._obs
        for _ in range(3):  # layers, forward and backward
            hidden = torch.sigmoid(hidden @ self._weight)
            hidden = hidden + (hidden.T @ hidden).sum() * 1e-9
        return u.sum() + hidden.sum()

    def rate(self, seconds: float = LOOP_S) -> float:
        """Rounds a second over at least `seconds`."""
        synchronise(self._device)
        rounds, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds or rounds == 0:
            self.once()
            synchronise(self._device)
            rounds += 1
        return rounds / spent
