"""What train.py does differently with several processes: who speaks, which GPU, how a rank ends that lost the others.

Data flow: `Ranks.from_environment` -> train.py, which asks this module. One process alone is not affected.
"""

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import time
from collections.abc import Iterator

import torch

from mappo import TrainConfig, Trainer
from mappo.distributed import Ranks

RANK_LOST = 1
"""Exit code of a rank that has lost another one."""
FIRST_ENDS_OTHERS_S = 0.5
"""Within this time the first process has ended those that it has forked, if it ends itself."""
REPEATED_WITHIN_S = 5.0
"""Ctrl-C reaches every rank, and torchrun sends it once more: within this time that is not a second Ctrl-C."""


@contextlib.contextmanager
def silent_unless(is_first: bool) -> Iterator[None]:
    """Only the first rank writes to stdout."""
    if is_first:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def check_device(config: TrainConfig, ranks: Ranks) -> None:
    """Each rank needs a GPU of its own.

    Raises:
        ValueError: --device names one for all, or this machine has fewer GPUs than ranks.
    """
    if ranks.count == 1:
        return
    if config.device.startswith("cuda:"):
        raise ValueError(f"--device {config.device} is one GPU for all ranks; use --device cuda, one for each")
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if config.device in ("cuda", "auto") and 0 < gpus <= local:
        here = os.environ.get("LOCAL_WORLD_SIZE", f"{local + 1}")
        flag = "--nproc-per-node" if under_torchrun() else "--processes"
        raise ValueError(f"{flag} {here} needs as many GPUs, got {gpus}; start fewer, or use --device cpu")


@contextlib.contextmanager
def one_voice(ranks: Ranks) -> Iterator[None]:
    """What ends all processes in the body only the first says; what ends one of the others that one says."""
    try:
        yield
    except BaseException:
        _let_the_first_end(ranks)
        raise


def _let_the_first_end(ranks: Ranks) -> None:
    if not (ranks.is_first or under_torchrun()):
        time.sleep(FIRST_ENDS_OTHERS_S)


def under_torchrun() -> bool:
    """Whether torchrun started the ranks, and not `--processes`."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_of_rank(trainer: Trainer, reason: str) -> None:
    """Say in one line why this rank ends and how the run goes on, and end at once."""
    _let_the_first_end(trainer.ranks)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    remedy = "there is no checkpoint yet, start it again"
    if (trainer.run.checkpoints / "latest.pt").is_file():
        here = os.environ.get("LOCAL_WORLD_SIZE", trainer.ranks.count)
        command = f"python scripts/train.py --processes {here}"
        if under_torchrun():
            command = f"torchrun --nproc-per-node={here} scripts/train.py"
        remedy = f"its last checkpoint resumes it: {command} --resume {trainer.run.path}"
    print(f"error: {reason}; {remedy}", file=sys.stderr, flush=True)
    leave_at_once(RANK_LOST)


def leave_at_once(code: int) -> None:
    """End this process and its workers; checkpoints are written atomically."""
    for process in multiprocessing.active_children():  # workers, which would complain of the pipe that breaks
        process.kill()
    multiprocessing.util._exit_function()  # pyright: ignore[reportAttributeAccessIssue] - frees their semaphores
    os._exit(code)  # an exception might be swallowed by whatever runs
