"""RLlib's PPO on the PettingZoo view of the microgrid env; one CSV row an iteration.

Run by an interpreter of its own that has RLlib and this project's dependencies (docs/performance.md):
`python rllib_peer.py --iterations 5 --out rllib.csv`, with this project on PYTHONPATH. One shared policy, RLlib's own
settings but for the size of the network and the numbers of env steps, epochs and minibatches. An env step is one step
of one env, all its agents together; its time includes sampling and the update.
"""

import argparse
import csv
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

COLUMNS: tuple[str, ...] = ("iteration", "env_steps", "seconds")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it asks for it
os.environ.setdefault("RAY_worker_niceness", "0")  # else its processes wait for any other program


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", default="ieee34_ieee13")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--batch", type=int, default=2400, help="env steps an iteration")
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--runners", type=int, default=2, help="processes that sample; 0: none but the learner's")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    import ray  # noqa: PLC0415 - slow; after --help  # pyright: ignore[reportMissingImports]

    ray.init(
        num_cpus=max(2, args.runners + 1), include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
    )
    algorithm = _algorithm(args)
    with args.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        sampled = 0
        for iteration in range(args.iterations):
            started = time.perf_counter()
            result = algorithm.train()
            seconds = time.perf_counter() - started
            lifetime = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
            table.writerow([iteration, lifetime - sampled, round(seconds, 4)])
            file.flush()
            sampled = lifetime
    algorithm.stop()
    ray.shutdown()


def _algorithm(args: argparse.Namespace) -> Any:
    from ray.rllib.algorithms.ppo import PPOConfig  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    from ray.rllib.core.rl_module.default_model_config import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        DefaultModelConfig,
    )
    from ray.rllib.env.wrappers.pettingzoo_env import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        ParallelPettingZooEnv,
    )
    from ray.tune.registry import register_env  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    import envs  # noqa: PLC0415 - it loads torch

    agents = envs.parallel_env(args.scenario).possible_agents

    def make(config: Any) -> Any:
        del config
        import torch  # noqa: PLC0415 - in the process that samples

        torch.set_num_threads(1)  # one small copy each
        return ParallelPettingZooEnv(envs.parallel_env(args.scenario, share_reward=True))

    register_env("microgrid", make)
    config = (
        PPOConfig()
        .environment("microgrid")
        .env_runners(num_env_runners=args.runners, rollout_fragment_length="auto")
        .learners(num_learners=0)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
        .training(
            train_batch_size_per_learner=args.batch,
            minibatch_size=args.batch * len(agents) // args.minibatches,
            num_epochs=args.epochs,
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[args.hidden, args.hidden], vf_share_layers=False))
    )
    return config.build_algo()


if __name__ == "__main__":
    main()
