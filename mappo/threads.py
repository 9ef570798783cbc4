"""How many threads torch computes with on this machine.

Data flow: `--threads`, processor topology -> `thread_count` -> `torch.set_num_threads`.
"""

import math
import os
from pathlib import Path

import torch

MOST_THREADS = 8
"""torch cuts elementwise work into pieces of 32,768 entries: a batch of 512 x 72 buses or a minibatch is a few."""
_CPUS = Path("/sys/devices/system/cpu")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def use_threads(setting: int) -> int:
    """Let torch compute with `thread_count(setting)` threads; returns how many it has now."""
    if (count := thread_count(setting)) is not None:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def thread_count(setting: int) -> int | None:
    """The number of threads to compute with; None: torch's own, as the variable OMP_NUM_THREADS sets it.

    Args:
        setting: `--threads`; 0: the physical cores that this process may use, at most `MOST_THREADS`.

    Raises:
        ValueError: a negative setting.
    """
    if setting < 0:
        raise ValueError(f"--threads must be at least 0, got {setting}; 0 chooses by the machine")
    if setting:
        return setting
    if "OMP_NUM_THREADS" in os.environ:  # torchrun and `train.py --processes` set it
        return None
    return shared_threads(1)


def shared_threads(processes: int) -> int:
    """Threads of each of so many processes on this machine, at most `MOST_THREADS`."""
    return int(max(1, min(min(physical_cores(), _quota()) // processes, MOST_THREADS)))


def physical_cores() -> int:
    """Cores this process may run on, two threads of one core counted once where Linux tells."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    files = [_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in allowed]
    return len({file.read_text() for file in files}) if all(file.is_file() for file in files) else len(allowed)


def _quota() -> float:
    """Cores' worth of time that a container may use, rounded up; infinite without a limit."""
    modern, old = _QUOTAS
    if modern.is_file():
        quota, period = modern.read_text().split()
    elif old.is_file():
        quota, period = old.read_text().strip(), _PERIOD.read_text()
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else math.ceil(int(quota) / int(period))
