"""Sums over the ranks of one machine through memory that they share; tensors must be on the CPU.

Data flow: Ranks -> SharedSums -> the same sums, bit for bit, on every rank. A process group wakes threads for each
message; here each rank writes its numbers, counts up, and looks at the counters of the others.
"""

import mmap
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

SLOT_BYTES = 1 << 20
"""What a rank can write at once; larger tensors go in parts."""
ALIGNED_BYTES = 64
"""Each tensor begins at a multiple of it."""
LINE_BYTES = 128
"""Apart from each other by so much, counters do not share a cache line or the next one, which is fetched with it."""
SPINS = 500
"""A rank first looks so often at a counter without giving its core away."""
YIELDING_S = 2e-3
"""So long it then gives its core only to who wants it at once; afterwards it sleeps."""
LONGEST_SLEEP_S = 0.02

Place = tuple[Tensor, slice]
"""Numbers (n,) and their bytes in a slot."""


def suits() -> bool:
    """Whether this is Linux on a processor that shows its writes to others in their order; ARM, say, does not."""
    return hasattr(os, "memfd_create") and platform.machine() in ("x86_64", "AMD64")


class SharedSums:
    """One rank's view of the memory: a counter for each rank, then for each of two turns a slot for each rank.

    A rank that writes turn n + 2 where n was has seen every other's n + 1, so all have read n. The memory is a file
    without a name, which is gone with the last process; a rank holds a lock on one byte of it until it ends.
    """

    def __init__(self, file: int, index: int, count: int, timeout_s: float) -> None:
        """`file` is the descriptor of the memory, the same for all `count` ranks, of which this is number `index`."""
        self.index, self.timeout_s = index, timeout_s
        self._file, self._turn = file, 0
        os.lseek(file, index, os.SEEK_SET)
        os.lockf(file, os.F_TLOCK, 1)
        memory = mmap.mmap(file, size_bytes(count))
        self._counters = memoryview(memory).cast("q")[: count * LINE_BYTES // 8 : LINE_BYTES // 8]
        slots = torch.frombuffer(memory, dtype=torch.uint8, offset=count * LINE_BYTES)
        self._slots = [tuple(turn) for turn in slots.view(2, count, SLOT_BYTES)]

    @classmethod
    def joined(cls, index: int, count: int, gather: Callable[[Any], list[Any]], timeout_s: float) -> Self | None:
        """The memory of these ranks, or None on all of them where one cannot use it, as on another machine.

        Args:
            index: this rank.
            count: of all ranks, which must all call this.
            gather: returns the values of all ranks.
            timeout_s: how long to wait for a rank that lives.
        """
        file, address = _made(size_bytes(count)) if index == 0 else (None, None)
        address = gather(address)[0]
        if index and address is not None:
            file = _opened(*address)
        sums = None
        if file is not None:
            try:
                sums = cls(file, index, count, timeout_s)
            except OSError:  # a sandbox without locks, say
                os.close(file)
        if all(gather(sums is not None)):  # from here on every rank holds its lock
            return sums
        if sums is not None:
            sums.close()
        return None

    def close(self) -> None:
        """Leave the others: for them this rank is lost."""
        os.close(self._file)

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, of any shape and type but contiguous, by its sum over ranks in their order.

        Raises:
            ConnectionError: a rank ended, or lets this one wait for too long.
        """
        for places in _in_turns([x.view(-1) for x in tensors]):
            self._turn += 1
            slots = self._slots[self._turn % 2]
            for part, place in places:
                slots[self.index][place].view(part.dtype).copy_(part)
            self._counters[self.index] = self._turn
            for rank in range(len(slots)):
                self._wait_for(rank)
            for part, place in places:
                one, two, *others = (slot[place].view(part.dtype) for slot in slots)
                torch.add(one, two, out=part)
                for other in others:
                    part.add_(other)

    def _wait_for(self, rank: int) -> None:
        """Return when a rank has written this turn."""
        counters, turn = self._counters, self._turn
        for _ in range(SPINS):
            if counters[rank] >= turn:
                return
        started = time.monotonic()
        while counters[rank] < turn:
            waited_s = time.monotonic() - started
            if waited_s < YIELDING_S:
                os.sched_yield()
                continue
            if self._has_ended(rank) and counters[rank] < turn:  # it may have written just before
                raise ConnectionError(f"rank {rank} ended")
            if waited_s > self.timeout_s:
                raise ConnectionError(f"rank {rank} is silent for {self.timeout_s:.0f} s")
            time.sleep(min(waited_s / 10, LONGEST_SLEEP_S))

    def _has_ended(self, rank: int) -> bool:
        """Whether nobody holds the rank's lock, which the kernel takes from a process that dies."""
        os.lseek(self._file, rank, os.SEEK_SET)
        try:
            os.lockf(self._file, os.F_TEST, 1)
        except OSError:
            return False
        return True


def size_bytes(count: int) -> int:
    """Of the memory of `count` ranks; what is not written takes no place."""
    return count * (LINE_BYTES + 2 * SLOT_BYTES)


def _made(size: int) -> tuple[int, tuple[str, str]] | tuple[None, None]:
    """Descriptor of a new file without a name, and what `_opened` needs on the other ranks; None where it cannot be."""
    if not suits():
        return None, None
    name = f"mappo-{secrets.token_hex(8)}"
    try:
        file = os.memfd_create(name)
        os.ftruncate(file, size)
    except OSError:
        return None, None
    return file, (name, f"/proc/{os.getpid()}/fd/{file}")


def _opened(name: str, path: str) -> int | None:
    """Descriptor of the first rank's file; None where `path` is nothing, or another process's: a different machine."""
    try:
        return os.open(path, os.O_RDWR) if suits() and name in os.readlink(path) else None
    except OSError:
        return None


def _in_turns(tensors: Iterable[Tensor]) -> Iterator[list[Place]]:
    """Tensors (n,) in parts, as many at a time as a slot holds."""
    places, start = list[Place](), 0
    for x in tensors:
        for part in x.split(SLOT_BYTES // x.element_size()):
            if start + part.nbytes > SLOT_BYTES:
                yield places
                places, start = [], 0
            places.append((part, slice(start, start + part.nbytes)))
            start += -(-part.nbytes // ALIGNED_BYTES) * ALIGNED_BYTES
    if places:
        yield places
