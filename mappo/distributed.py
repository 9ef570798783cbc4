"""Several processes ("ranks") that train one policy together: what they exchange. One rank alone exchanges nothing.

Data flow: torchrun or `train.py --processes` -> `Ranks.from_environment` -> Trainer -> whatever adds over copies. Each
rank steps its own copies; sums over copies become sums over ranks, so that every rank holds the same parameters and
statistics.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mappo.shared_sums import SharedSums
from mappo.threads import shared_threads

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others before it takes them for lost; one that dies is noticed at once."""
SIGNS_OF_LOSS = ("gloo", "NCCL", "Connection", "connection", "Broken pipe", "imed out", "imeout", "closed")
"""What messages of torch.distributed contain that tell of a lost connection and not of a wrong call."""

T = TypeVar("T")
Add = Callable[[Tensor], Tensor]
"""Sums a tensor over ranks; may do so in place."""


class LostRankError(ConnectionError):
    """Another rank ended or cannot be reached."""


class AgreedError(ValueError):
    """What one rank refused, raised by all of them; its cause is what this rank itself refused, if it did."""


@dataclass(frozen=True)
class Share:
    """Which of `count` equal parts of all copies this is."""

    index: int = 0
    count: int = 1


WHOLE = Share()
"""All of them, as one rank has it."""


def alone(x: Tensor) -> Tensor:
    """The sum over one rank."""
    return x


class Ranks:
    """This rank's place among all, and how they exchange tensors and plain values.

    Every rank must make the same calls in the same order. A rank whose call fails because another one is gone raises
    `LostRankError`.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        """With more than one rank the default process group of torch.distributed must exist."""
        self.index, self.count = index, count
        self.here = count  # those on this machine
        self.share = Share(index, count)
        self.add: Add = alone if count == 1 else self.sum_

    @classmethod
    def from_environment(cls) -> Self:
        """Join the ranks that torchrun or `train.py --processes` started; one rank without them.

        Ranks of one machine divide its cores among them, unless OMP_NUM_THREADS asks for more than one thread each, and
        each has a GPU of its own where there are enough.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        local, here = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":  # which torchrun sets where it is not set
            torch.set_num_threads(shared_threads(max(here, 1)))
        has_gpu = local < torch.cuda.device_count()
        if has_gpu:
            torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl" if has_gpu and dist.is_nccl_available() else "gloo"
        ranks = cls(int(os.environ["RANK"]), count)
        ranks.here = max(here, 1)
        ranks._exchange(dist.init_process_group, backend, timeout=TIMEOUT)
        return ranks

    def close(self) -> None:
        """Leave the others."""
        if (shared := vars(self).pop("_shared", None)) is not None:
            shared.close()
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and the console."""
        return self.index == 0

    def equal_part(self, total: int, flag: str) -> range:
        """Numbers of this rank's copies among `total`, of which each rank has as many.

        Raises:
            ValueError: `total`, which `flag` sets, cannot be divided so.
        """
        if total % self.count:
            below = total // self.count * self.count
            near = " or ".join(str(size) for size in (below, below + self.count) if size)
            rule = f"must be a multiple of the number of ranks, {self.count}, which share them"
            raise ValueError(f"{flag} {total} {rule}; use {near}")
        return self.part(total, flag)

    def part(self, total: int, what: str) -> range:
        """Numbers of this rank's entries among `total`, as equally many as possible and at least one.

        Raises:
            ValueError: there are more ranks than entries; begins with `what`.
        """
        if total < self.count:
            rule = f"must be at least 1 for each of the {self.count} ranks"
            raise ValueError(f"{what} {total} {rule}; start fewer ranks, or give --processes 1")
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)

    def sum_(self, x: Tensor) -> Tensor:
        """Replace x by its sum over ranks."""
        self.sum_all_([x])
        return x

    def sum_all_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks, all in one exchange; they must be contiguous, on one device."""
        if self.count == 1:
            return
        if tensors[0].device.type == "cpu" and self._shared is not None:
            self._exchange(self._shared.sum_, tensors)
        elif len(tensors) == 1:
            self._exchange(dist.all_reduce, tensors[0])
        else:
            flat = self.sum_(torch.cat([x.view(-1) for x in tensors]))
            sums = flat.split([x.numel() for x in tensors])
            for x, total in zip(tensors, sums, strict=True):
                x.copy_(total.view_as(x))

    @functools.cached_property
    def _shared(self) -> SharedSums | None:
        """The memory of all ranks, which the first sum on the CPU makes; None where they have none in common."""
        return SharedSums.joined(self.index, self.count, self.gather, TIMEOUT.total_seconds())

    def any(self, flag: bool) -> bool:
        """Whether it is True on any rank."""
        return bool(self.sum_(torch.tensor(int(flag)))) if self.count > 1 else flag

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank; tensors must be on the CPU."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        self._exchange(dist.all_gather_object, values, value)
        return values

    def gather_to_first(self, value: Any) -> list[Any]:
        """The values of all ranks on the first, nothing on the others; tensors must be on the CPU."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_first else None
        self._exchange(dist.gather_object, value, values)
        return values or []

    def from_first(self, value: Any) -> Any:
        """The value of the first rank."""
        if self.count == 1:
            return value
        values = [value]
        self._exchange(dist.broadcast_object_list, values)
        return values[0]

    def check_same(self, value: Any) -> None:
        """All ranks must train the same thing.

        Raises:
            ValueError: their copies, settings or checkpoints, which `value` holds, differ.
        """
        if any(other != value for other in self.gather(value)):
            raise ValueError("all ranks must have envs of as many copies, the same settings and the same checkpoint")

    def told_by_any(self, message: str | None) -> str | None:
        """The message of the first rank that has one, with its number."""
        if self.count == 1 or not self.any(message is not None):
            return message
        told = ((rank, text) for rank, text in enumerate(self.gather(message)) if text is not None)
        rank, text = next(told)
        return f"{text} (rank {rank})"

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What any rank refuses in the body by a ValueError or an OSError, all refuse. The body exchanges nothing.

        Raises:
            AgreedError: the message of the first rank that refused.
        """
        if self.count == 1:
            yield
            return
        refused: ValueError | OSError | None = None
        try:
            yield
        except LostRankError:
            raise
        except (ValueError, OSError) as error:
            refused = error
        messages = self.gather(None if refused is None else str(refused)) if self.any(refused is not None) else []
        told = [(rank, text) for rank, text in enumerate(messages) if text is not None]
        if told:
            rank, text = told[0]
            whose = "" if len(told) == self.count else f" (rank {rank})"
            raise AgreedError(text + whose) from refused

    def first_alone(self, make: Callable[[], T]) -> T:
        """What `make` returns: called on the first rank, then on the others, which may use what it has left on disk."""
        made: list[T] = []
        for turn in (True, False):
            with self.together():
                if self.is_first is turn:
                    made.append(make())
        return made[0]

    def _exchange(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except (RuntimeError, ConnectionError) as error:
            reason = str(error).splitlines()[0]
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in SIGNS_OF_LOSS):
                raise
            raise LostRankError(
                f"rank {self.index} of {self.count} has lost another one, which ended or cannot be reached ({reason})"
            ) from error
