"""VMAS tasks: `--env vmas:balance:n_agents=4`.

Data flow: `--env` -> `VmasVecEnv`, whose copies are one batch on `--device`.
"""

from collections.abc import Mapping
from typing import Any

from envs.settings import env_device
from mappo import VecEnv
from mappo.adapters.vmas import vmas_env_from
from mappo.evaluate import Acts
from mappo.parts import HELD_OUT

from .family import Family, Request
from .policies import Constant

RANK_STRIDE = 1_000_000_007  # between the seeds of ranks: more than what training and evaluation seeds differ by


class Vmas(Family):
    """Batched copies of one task."""

    name = "vmas"
    form = "vmas:<task>[:key=value,...]"
    help = "a task of VMAS (extra vmas), max_steps=100 unless given, such as vmas:navigation:n_agents=3"

    def training_env(self, request: Request) -> VecEnv:
        """On `--device`."""
        device = str(env_device(request.config.device))
        return vmas_env_from(request.text, len(request.copies), device=device, seed=_seed(request))

    def evaluation_env(self, request: Request) -> VecEnv:
        """`--eval-episodes` copies with a seed of their own."""
        device, seed = str(env_device(request.config.device)), _seed(request) + HELD_OUT
        return vmas_env_from(request.text, len(request.episodes), device=device, seed=seed)

    def held_out(self, spec: Mapping[str, Any], copies: int, *, seed: int, num_workers: int) -> VecEnv:
        """Copies with a seed of their own."""
        del num_workers
        return vmas_env_from(self.text_of(spec), copies, seed=seed)

    def idle(self, spec: Mapping[str, Any], env: VecEnv) -> Acts | None:
        """No force: the middle of each range, or the first choice."""
        del spec
        return Constant(env, 0)


def _seed(request: Request) -> int:
    """Of this rank: the copies of one VMAS env share one random stream."""
    return request.config.seed + RANK_STRIDE * request.ranks.index
