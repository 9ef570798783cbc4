"""How many copies of a batch are left, as the host learns it: of a GPU, which runs behind it, one count late.

Data flow: masks of copies that are done -> `Countdown` -> whether `solving.py` goes on. `Number`: also for
`envs/actions.py`.
"""

import torch
from torch import Tensor


def runs_behind(device: torch.device) -> bool:
    """Whether the host queues work for this device and goes on, so that to read a result is to wait."""
    return device.type == "cuda"


class Countdown:
    """Counts that a device makes and the host decides by.

    On a CPU the host knows each at once. A GPU works off what the host has queued: to wait for a count that was just
    asked for would let it run empty. There the host learns of a count one call of `learn` later, when more work is
    queued, so that its number is an upper bound.
    """

    def __init__(self, copies: int, *, behind: bool) -> None:
        """Count down from `copies`; `behind`: the device runs behind the host."""
        self.behind = behind
        self.start(copies)

    def start(self, copies: int) -> None:
        """Count down from here; what was posted before is forgotten."""
        self.left = copies  # as far as the host knows
        self._told, self._posted = list[Number](), list[Number]()

    def post(self, done: Tensor) -> None:
        """Let the device count copies that are done now, (c,) bool, each once."""
        self._posted.append(Number(done.count_nonzero()))

    def learn(self) -> int:
        """How many are left at most: of all that was posted, or of what was before the last call."""
        if self.behind:
            due, self._told, self._posted = self._told, self._posted, []
        else:
            due, self._posted = self._posted, []
        self.left -= sum(map(int, due))
        return self.left


class Number:
    """A whole number on its way to the host, which waits for nothing that is queued behind it when it reads it."""

    def __init__(self, value: Tensor) -> None:
        """`value`: without dimensions."""
        self._value, self._arrived = value, None
        if value.is_cuda:
            self._value = torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(value.device))

    def __int__(self) -> int:
        if self._arrived is not None:
            self._arrived.synchronize()
        return int(self._value)
