"""PettingZoo environments: `--env pettingzoo:mpe2.simple_spread_v3:N=3`.

Data flow: `--env` -> `parallel_factory` -> `PettingZooVecEnv`, in this process or, with `--num-workers`, in others.
"""

from collections.abc import Mapping
from typing import Any

from mappo import VecEnv
from mappo.adapters.pettingzoo import PettingZooVecEnv, parallel_factory
from mappo.evaluate import Acts
from mappo.parts import HELD_OUT

from .family import Family, Request
from .policies import Constant

DOES_NOTHING = {"mpe2.": 0, "pettingzoo.butterfly.knights_archers_zombies": 5}
"""Modules whose discrete choice of this number does nothing, as does the middle of their continuous actions."""


class PettingZoo(Family):
    """Copies of any ParallelEnv that a module makes."""

    name = "pettingzoo"
    form = "pettingzoo:<module>[:key=value,...]"
    help = "the ParallelEnv that <module>.parallel_env(key=value, ...) makes, such as pettingzoo:mpe2.simple_spread_v3"
    chunk = 250  # each copy is a Python object of its own
    has_workers = True

    def training_env(self, request: Request) -> VecEnv:
        """In `--num-workers` processes, or in this one."""
        config, copies = request.config, request.copies
        settings: dict[str, Any] = {"first_copy": copies.start, "num_workers": config.num_workers, "seed": config.seed}
        return PettingZooVecEnv(parallel_factory(request.text), len(copies), **settings)

    def evaluation_env(self, request: Request) -> VecEnv:
        """`--eval-episodes` copies in this process, with seeds that no training episode has."""
        episodes, seed = request.episodes, request.config.seed + HELD_OUT
        return PettingZooVecEnv(parallel_factory(request.text), len(episodes), first_copy=episodes.start, seed=seed)

    def held_out(self, spec: Mapping[str, Any], copies: int, *, seed: int, num_workers: int) -> VecEnv:
        """Copies with seeds of their own."""
        return PettingZooVecEnv(parallel_factory(self.text_of(spec)), copies, num_workers=num_workers, seed=seed)

    def idle(self, spec: Mapping[str, Any], env: VecEnv) -> Acts | None:
        """For the modules of which it is known."""
        module = parallel_factory(self.text_of(spec)).module
        for start, choice in DOES_NOTHING.items():
            if module.startswith(start):
                return Constant(env, choice)
        return None
