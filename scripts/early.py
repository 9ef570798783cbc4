"""Starts the server of worker processes before anything loads torch, so that it imports beside this process.

Data flow: command line -> a guess whether the training will have workers -> `start_server`. Imported first by train.py.
A wrong guess costs time, nothing else: the first worker starts a server that is missing, and one too many waits.
"""

import os
import sys
from collections.abc import Sequence

from mappo.adapters.server import start_server

OTHERWISE = {"--env", "--device", "--test", "--help", "-h"}
"""Flags of trainings that have no workers by default, or whose envs may print: `--json` keeps that from stdout only
for what is started later."""


def may_have_workers(argv: Sequence[str], cores: int) -> bool:
    """Whether these words ask for a training of the microgrid with workers."""
    words = [part for word in argv for part in word.replace("_", "-").split("=")]
    if OTHERWISE.intersection(words):
        return False
    if "--num-workers" in words[:-1]:
        return words[words.index("--num-workers") + 1] != "0"
    alone = os.environ.get("WORLD_SIZE", "1") == "1" and os.environ.get("OMP_NUM_THREADS") != "1"
    return alone and cores > 1


if may_have_workers(sys.argv[1:], os.cpu_count() or 1):
    start_server("envs")
