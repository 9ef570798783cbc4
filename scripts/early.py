"""Starts the server of worker processes before anything loads torch, so that it imports beside this process.

Data flow: command line -> a guess whether the training will have workers -> `start_server`. Imported first by train.py.
A wrong guess costs time, nothing else: without a server the first worker starts it, and a server alone waits.
"""

import os
import sys
from collections.abc import Sequence

from mappo.adapters.server import start_server

WITHOUT = {"--env", "--device", "--test", "--help", "-h"}
"""Flags of trainings that have no workers unless --num-workers says so."""


def may_have_workers(argv: Sequence[str], cores: int) -> bool:
    """Whether these words ask for a training with workers."""
    words = [part for word in argv for part in word.replace("_", "-").split("=")]
    if "--num-workers" in words:
        return words[-1] != "--num-workers" and words[words.index("--num-workers") + 1] != "0"
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 and os.environ.get("OMP_NUM_THREADS") != "1"
    return alone and cores > 1 and not WITHOUT.intersection(words)


if may_have_workers(sys.argv[1:], os.cpu_count() or 1):
    start_server("envs")
