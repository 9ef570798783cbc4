"""BenchMARL's MAPPO at its default settings on one VMAS task; one CSV row an iteration.

Run by an interpreter of its own, whose packages are not this project's (docs/results.md says which):
`python benchmarl_peer.py --task balance --frames 600000 --out balance.csv`. It imports nothing of this project.

Two settings differ from BenchMARL's files: 60 copies instead of 10 (6,000 frames an iteration either way), and 200
evaluation episodes instead of 10, which the times leave out. A frame is one env step of one copy, all agents together;
returns are undiscounted sums over an episode, means over agents: `return` of the sampled policy in the collected
episodes, `eval_return` of the deterministic one.
"""

import argparse
import csv
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from benchmarl.algorithms import MappoConfig  # pyright: ignore[reportMissingImports]
from benchmarl.environments import VmasTask  # pyright: ignore[reportMissingImports]
from benchmarl.experiment import Callback, Experiment, ExperimentConfig  # pyright: ignore[reportMissingImports]
from benchmarl.models.mlp import MlpConfig  # pyright: ignore[reportMissingImports]

COLUMNS: tuple[str, ...] = ("iteration", "frames", "train_s", "frames_per_s", "return", "eval_return")


class Recorder(Callback):
    """Writes the CSV; the time that it and evaluations take is not counted."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.row, self.train_s = path, dict[str, Any](), 0.0
        self.mark = time.perf_counter()
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def on_batch_collected(self, batch: Any) -> None:
        """The returns of the episodes that ended in the batch."""
        group = next(iter(self.experiment.group_map))
        returns = batch.get(("next", group, "episode_reward")).mean(-2)[batch.get(("next", "done"))]
        self.row = {"return": float(returns.mean()) if len(returns) else ""}

    def on_train_end(self, training_td: Any, group: str) -> None:
        """Collection and update are over."""
        seconds = time.perf_counter() - self.mark
        self.train_s += seconds
        batch = self.experiment.config.on_policy_collected_frames_per_batch
        self.row |= {
            "iteration": self.experiment.n_iters_performed,
            "frames": self.experiment.total_frames,
            "train_s": round(self.train_s, 3),
            "frames_per_s": round(batch / seconds, 1),
        }

    def on_evaluation_end(self, rollouts: Any) -> None:
        """Each rollout is cut at its first done."""
        group = next(iter(self.experiment.group_map))
        returns = torch.stack([rollout.get(("next", group, "reward")).sum(0).mean() for rollout in rollouts])
        self.row["eval_return"] = float(returns.mean())

    def flush(self) -> None:
        """The iteration is over."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, restval="").writerow(self.row)
        self.mark = time.perf_counter()


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=("balance", "navigation"), required=True)
    parser.add_argument("--frames", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=120_000, help="frames; 0: no evaluation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        _experiment(args, folder).run()


def _experiment(args: argparse.Namespace, folder: str) -> Any:
    config = ExperimentConfig.get_from_yaml()
    config.max_n_frames = args.frames
    config.on_policy_n_envs_per_worker = 60
    config.loggers, config.create_json, config.render = [], False, False
    config.evaluation = args.eval_every > 0
    config.evaluation_interval = args.eval_every or config.evaluation_interval
    config.evaluation_episodes = 200
    config.save_folder = folder
    recorder = Recorder(args.out)
    experiment = Experiment(
        task={"balance": VmasTask.BALANCE, "navigation": VmasTask.NAVIGATION}[args.task].get_from_yaml(),
        algorithm_config=MappoConfig.get_from_yaml(),
        model_config=MlpConfig.get_from_yaml(),
        critic_model_config=MlpConfig.get_from_yaml(),
        seed=args.seed,
        config=config,
        callbacks=[recorder],
    )
    commit = experiment.logger.commit

    def commit_and_write() -> None:  # the last call of each iteration
        commit()
        recorder.flush()

    experiment.logger.commit = commit_and_write
    recorder.mark = time.perf_counter()
    return experiment


if __name__ == "__main__":
    main()
