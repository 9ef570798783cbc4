"""Small runs that several processes share, and the same runs in one process, all in float64.

As a program it is one rank: `python -m tests.ranked_runs <folder> <index> <count>`; results go into the folder.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gymnasium import spaces
from torch import Tensor

import envs
from mappo import Step, TrainConfig, Trainer
from mappo.distributed import Ranks
from tests.toy_tasks import RandomEnv, Task

COPIES = 8
HELD_OUT = 3  # an odd number: the ranks have unequal parts
ACTIONS = (spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 4]), spaces.Box(-1, 1, (1,)))


class Part:
    """Some copies of a toy whose copies do not depend on each other's actions: the others do what 0 stands for."""

    def __init__(self, whole: Task, rows: range, *, seed: int | None = None) -> None:
        """`whole` steps all copies; with a seed every reset begins the same episodes."""
        self.seed = seed
        self.whole, self.rows = whole, slice(rows.start, rows.stop)
        self.num_envs, self.device, self.state_dim = len(rows), whole.device, whole.state_dim
        self.agents, self.observation_spaces, self.action_spaces = (
            whole.agents,
            whole.observation_spaces,
            whole.action_spaces,
        )

    def reset(self) -> tuple[Tensor, Tensor]:
        """Of the part."""
        if self.seed is not None:
            self.whole.generator.manual_seed(self.seed)
        obs, state = self.whole.reset()
        return obs[self.rows], state[self.rows]

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        """Of the part."""
        alive, action_mask = self.whole.initial_masks()
        return alive[self.rows], action_mask[self.rows]

    def step(self, actions: Tensor) -> Step:
        """Of the part."""
        everyone = actions.new_zeros(self.whole.num_envs, *actions.shape[1:])
        everyone[self.rows] = actions
        step: dict[str, Any] = self.whole.step(everyone)._asdict()
        rows: dict[str, Any] = {name: value[self.rows] for name, value in step.items() if name != "metrics"}
        return Step(**rows, metrics={})

    def close(self) -> None:
        """Nothing to release."""


def microgrid(ranks: Ranks) -> tuple[envs.MicrogridEnv, envs.MicrogridEnv]:
    """A microgrid and some of its validation days."""
    copies, days = ranks.equal_part(COPIES, "--num-envs"), ranks.part(HELD_OUT, "days")
    plain: dict[str, Any] = {"seed": 1, "dtype": "float64"}
    env = envs.make("simple_2mg", num_envs=len(copies), first_copy=copies.start, group_size=2, **plain)
    held_out: dict[str, Any] = {"split": "val", "evaluation": True, "first_copy": days.start}
    return env, envs.make("simple_2mg", num_envs=len(days), **held_out, **plain)


def random_toy(ranks: Ranks) -> tuple[Part, Part]:
    """Noise with mixed spaces and masks; agents die and appear, so that minibatches hold unequal numbers of them."""
    env, held_out = (RandomEnv(ACTIONS, num_envs=size, seed=size) for size in (COPIES, HELD_OUT))
    return Part(env, ranks.part(COPIES, "copies")), Part(held_out, ranks.part(HELD_OUT, "episodes"), seed=9)


RUNS: dict[str, tuple[Callable[[Ranks], tuple[Any, Any]], dict[str, Any]]] = {
    "microgrid": (microgrid, {"num_steps": 24, "num_minibatches": 8}),
    "recurrent": (
        random_toy,
        {
            **{"num_steps": 8, "recurrent": "gru", "chunk_length": 4, "num_minibatches": 4, "grad_accumulation": 2},
            **{"policy_sharing": "independent", "reward_mode": "individual", "gamma": 0.9, "value_clip": True},
        },
    ),
    "happo": (random_toy, {"num_steps": 8, "algo": "happo", "num_minibatches": 4, "gamma": 0.9}),
}


@contextmanager
def double_precision() -> Iterator[None]:
    """Networks and buffers are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run(name: str, folder: Path, ranks: Ranks) -> Trainer:
    """Train one of `RUNS` for 4 iterations, with a checkpoint after 2."""
    make, settings = RUNS[name]
    plain: dict[str, Any] = {"hidden_dim": 16, "tensorboard": False, "runs_dir": str(folder)}
    often: dict[str, Any] = {"iterations": 4, "eval_every": 2, "checkpoint_freq": 2}
    config = TrainConfig(experiment_name=f"{name}_{ranks.count}", **plain, **often, **settings)
    env, held_out = make(ranks)
    trainer = Trainer(env, config, held_out, loggers=[], ranks=ranks)
    trainer.train()
    return trainer


def after_two(name: str, folder: Path, count: int) -> Path:
    """The checkpoint that a run of `count` ranks left after 2 iterations."""
    return folder / f"{name}_{count}" / "checkpoints" / "iteration_000002.pt"


def go_on(name: str, file: Path, ranks: Ranks) -> Trainer:
    """Resume one of `RUNS` until its end."""
    env, held_out = RUNS[name][0](ranks)
    trainer = Trainer.resume(file, env, held_out, loggers=[], ranks=ranks)
    trainer.train()
    return trainer


def weights_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and statistics of a checkpoint."""
    parts = {"policy": content["policy"]["weights"]}
    parts |= {name: content[name] for name in ("critic", "state_norm", "value_norm")}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}


def result(trainer: Trainer) -> dict[str, Any]:
    """Parameters, statistics and rows."""
    modules = {"critic": trainer.critic, "state_norm": trainer.state_norm, "value_norm": trainer.value_norm}
    content = {name: module.state_dict() for name, module in modules.items()}
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in trainer.history]
    return {"weights": weights_in({**content, "policy": trainer.policy.payload()}), "history": rows}


def main() -> None:
    """One rank: every run, and the second half of the microgrid's from checkpoints of these ranks and of one."""
    folder, index, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=index, world_size=count)
    ranks = Ranks(index, count)
    with double_precision():
        found = {name: result(run(name, folder, ranks)) for name in RUNS}
        for before in (count, 1):
            found[f"from {before}"] = result(go_on("microgrid", after_two("microgrid", folder, before), ranks))
    torch.save(found, folder / f"found_{index}.pt")
    ranks.close()


if __name__ == "__main__":
    main()
