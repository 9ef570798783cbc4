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


class Vmas(Family):
    """Batched copies of one task."""

    name = "vmas"
    form = "vmas:<task>[:key=value,...]"
    help = "a task of VMAS (extra vmas), max_steps=100 unless given, such as vmas:navigation:n_agents=3"

    def training_env(self, request: Request) -> VecEnv:
        """On `--device`."""
        config = request.config
        device = str(env_device(config.device))
        return vmas_env_from(request.text, request.num_envs, device=device, seed=config.seed)

    def evaluation_env(self, request: Request) -> VecEnv:
        """`--eval-episodes` copies with a seed of their own."""
        config = request.config
        device, seed = str(env_device(config.device)), config.seed + HELD_OUT
        return vmas_env_from(request.text, config.eval_episodes, device=device, seed=seed)

    def held_out(self, spec: Mapping[str, Any], copies: int, *, seed: int, num_workers: int) -> VecEnv:
        """Copies with a seed of their own."""
        del num_workers
        return vmas_env_from(self.text_of(spec), copies, seed=seed)

    def idle(self, spec: Mapping[str, Any], env: VecEnv) -> Acts | None:
        """No force: the middle of each range, or the first choice."""
        del spec
        return Constant(env, 0)
