"""What several processes find that add tensors through memory they share, and how the last of them is lost.

As a program it is one rank: `python -m tests.ranked_sums <folder> <index> <count>`; results go into the folder.
"""

import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mappo.distributed import LostRankError, Ranks
from mappo.shared_sums import SLOT_BYTES, SharedSums

ROUNDS = 200
PAUSE_S = 1.0


def numbers(index: int) -> list[Tensor]:
    """Of one rank: types and shapes that are summed together, some larger than a slot."""
    rng = torch.Generator().manual_seed(index)
    whole = SLOT_BYTES // 4
    floats = [torch.randn(shape, generator=rng) for shape in ((), (5, 7), (0, 3), (2 * whole + 5,), (whole,), (1, 1))]
    doubles = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((3,), (whole // 2 + 1,))]
    return [*floats, *doubles, torch.randint(1 << 40, (11,), generator=rng), torch.tensor(index)]


def by_gloo(tensors: list[Tensor]) -> list[Tensor]:
    """Their sums through the process group."""
    sums = [x.clone() for x in tensors]
    for x in sums:
        dist.all_reduce(x)
    return sums


def wrong_rounds(ranks: Ranks) -> int:
    """Of many sums in a row, one after another as fast as it goes, how many are not what they must be."""
    wrong = 0
    for turn in range(ROUNDS):
        x = torch.full((SLOT_BYTES // 4,), float(turn + ranks.index))
        want = sum(turn + rank for rank in range(ranks.count))
        wrong += not bool((ranks.sum_(x) == want).all())
    return wrong


def busy_s(ranks: Ranks) -> float:
    """Time that this rank computes while it waits for the last one, which comes late."""
    ranks.any(False)
    if ranks.index == ranks.count - 1:
        time.sleep(PAUSE_S)
    started = time.process_time()
    ranks.any(False)
    return time.process_time() - started


def are_unlike(ranks: Ranks) -> bool:
    """Whether none shares memory where the last rank has another processor."""
    machine = platform.machine
    if ranks.index == ranks.count - 1:
        platform.machine = lambda: "aarch64"
    try:
        return SharedSums.joined(ranks.index, ranks.count, ranks.gather, 60.0) is None
    finally:
        platform.machine = machine


def lose_last(ranks: Ranks, folder: Path) -> None:
    """The last of two is killed, the last of three leaves; the others write what they are told, and after how long."""
    last = ranks.count - 1
    if ranks.index < last:
        started = time.monotonic()
        try:
            ranks.any(False)
        except LostRankError as error:
            torch.save((str(error), time.monotonic() - started), folder / f"told_{ranks.index}.pt")
        return
    time.sleep(PAUSE_S / 2)
    if ranks.count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.close()
    until = time.monotonic() + 60.0
    while len(list(folder.glob("told_*.pt"))) < last and time.monotonic() < until:
        time.sleep(0.05)


def main() -> None:
    """One rank."""
    folder, index, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=index, world_size=count)
    ranks = Ranks(index, count)
    sums, want = numbers(index), by_gloo(numbers(index))
    ranks.sum_all_(sums)
    found: dict[str, Any] = {"sums": sums, "gloo": want, "wrong": wrong_rounds(ranks), "busy_s": busy_s(ranks)}
    maps = Path("/proc/self/maps").read_text().splitlines()
    found["memory"] = [line.split(maxsplit=5)[5] for line in maps if "mappo-" in line]
    found["unlike"] = are_unlike(ranks)
    torch.save(found, folder / f"found_{index}.pt")
    lose_last(ranks, folder)


if __name__ == "__main__":
    main()
