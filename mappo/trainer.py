"""Wires the parts and orders the calls: rollout, advantages, update, log, evaluate, checkpoint. No formulas.

Data flow: VecEnv, TrainConfig -> Trainer -> run folder (metrics, checkpoints) and `history`.
"""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch

from mappo.buffer import allocate
from mappo.callbacks import Callback
from mappo.checkpoint import check_fits, read_file, unpacking, versions, write_file
from mappo.config import TrainConfig
from mappo.copies import load_copies, states_of_copies
from mappo.distributed import Ranks
from mappo.evaluate import EndlessEpisodeError, EvalResult, evaluate
from mappo.logger import Logger, Row, default_loggers, require_wandb
from mappo.networks import build_critic
from mappo.normalization import RunningMeanStd, ValueNorm
from mappo.parts import (
    Factory,
    buffer_widths,
    cause_of_non_finite,
    check_compiler,
    check_envs,
    check_fits_memory,
    check_inputs,
    checked_config,
    checked_env_spec,
    checked_groups,
    env_name,
    make_envs,
    make_updater,
    rates,
    target_settings,
    warn_about,
)
from mappo.policy import Policy
from mappo.rollout import Rollout
from mappo.run_folder import RunFolder
from mappo.spaces import EnvSpec
from mappo.targets import Networks, make_batch
from mappo.update import to_floats
from mappo.vec_env import VecEnv, checked_device


class Trainer:
    """Trains the agents of one VecEnv, or of a PettingZoo ParallelEnv, by MAPPO, IPPO or HAPPO.

    `history` holds one row for each iteration of this process, and one at iteration 0 for the first evaluation.
    """

    def __init__(
        self,
        env: VecEnv | Factory,
        config: TrainConfig | None = None,
        eval_env: VecEnv | Factory | None = None,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] | None = None,
        run: RunFolder | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Checks that everything fits; nothing is stepped or written yet. `loggers` and `run` replace the defaults.

        With several `ranks` each has a Trainer of its own, all with the same config, and envs with its share of the
        copies; only the first writes files.
        """
        self.config, self.ranks = checked_config(config, env), ranks or Ranks()
        self.callbacks, self.given_loggers, self.loggers = tuple(callbacks), loggers, list[Logger]()
        with ExitStack() as undo:  # what fails leaves no processes behind
            self.env, self.eval_env = make_envs(env, eval_env, self.config, undo, self.ranks)
            self._build(self.env, self.config)
            self.run = run or RunFolder.new(self.config, env_name(self.env))
            undo.pop_all()
        self.iteration = self.env_steps = 0
        self.best_score, self.best_iteration = -math.inf, -1
        self.elapsed_s = 0.0
        self.history: list[Row] = []
        self.notes: list[str] = []
        self._stop_requested = self._run_is_open = self._endless = False
        self._clock, self._evaluations = 0.0, 0

    def _build(self, env: VecEnv, config: TrainConfig) -> None:
        """Networks, buffer and update that fit the env."""
        self.num_envs = env.num_envs * self.ranks.count  # of all ranks
        self.spec, self.env_spec = EnvSpec.of(env), checked_env_spec(env, self.num_envs)
        check_envs(env, self.eval_env, self.spec, config)
        self.group_size = checked_groups(env)
        if config.wandb:
            require_wandb()
        num_steps = config.rollout_steps(self.num_envs)
        self.device = torch.device(env.device) if config.device == "auto" else checked_device(config.device)
        # Weights are drawn on the CPU, so that every device starts from the same ones.
        weights = torch.Generator().manual_seed(config.seed)
        self.generator = torch.Generator(self.device).manual_seed(config.seed + 1)
        self.policy = Policy(self.spec, config, weights)
        if idle_action := getattr(env, "idle_action", None):
            self.policy.actor.start_at(idle_action().cpu().float())
        self.policy.to(self.device)
        self.critic = build_critic(self.spec, config, weights).to(self.device)
        one_row = torch.zeros(1, dtype=torch.long)
        self.state_norm = RunningMeanStd(self.spec.state_dim, one_row, enabled=config.normalize_obs).to(self.device)
        self.value_norm = ValueNorm(self.critic.num_values, enabled=config.value_norm).to(self.device)
        check_compiler(config, self.device)
        self.updater = make_updater(self.policy, self.critic, config, env.num_envs, self.ranks)
        widths = buffer_widths(self.spec, self.policy, self.critic)
        check_fits_memory(config, self.num_envs, widths, self.critic, self.device, self.ranks)
        self.buffer = allocate(num_steps, env.num_envs, config.chunk, widths, self.device)
        self.rollout = Rollout(env, self.spec, self.policy, self.critic, self.state_norm)

    def train(self) -> list[Row]:
        """Run the iterations that are left, up to `stop_after`; returns `history`."""
        last = self.config.stop_after or self.config.iterations
        if self.iteration >= last:
            name = "--stop-after" if self.config.stop_after else "--iterations"
            raise ValueError(f"{name} {last} iterations are done already; resume with a larger number to go on")
        self.ranks.check_same((self.env.num_envs, self.iteration, self.config.to_dict()))
        self._stop_requested = False
        self._clock = time.perf_counter()
        self.rollout.start()
        for callback in self.callbacks:
            callback.on_train_start(self)
        try:
            while self.iteration < last and not self.ranks.any(self._stop_requested):
                self._iterate(is_last=self.iteration + 1 == last)
            self.save("latest")
        finally:
            for logger in self.loggers:
                logger.close()
            self._run_is_open = False
            for callback in self.callbacks:
                callback.on_train_end(self)
        return self.history

    def evaluate(self) -> EvalResult:
        """One deterministic episode in every copy of `eval_env`, with the parameters as they are.

        Raises:
            ValueError: there is no eval_env, or an episode of it did not end.
        """
        if self.eval_env is None:
            raise ValueError("evaluate needs an eval_env: Trainer(env, config, eval_env=...)")
        mode, most = self.config.reward_mode, self.config.eval_max_steps
        return evaluate(self.policy, self.eval_env, reward_mode=mode, max_steps=most, ranks=self.ranks)

    def close(self) -> None:
        """Release what the envs hold, such as worker processes."""
        for env in (self.env, self.eval_env):
            if env is not None:
                env.close()

    def request_stop(self) -> None:
        """Finish the running iteration, save, and return from `train`; safe in a signal handler."""
        self._stop_requested = True

    def save(self, name: str) -> Path:
        """Write checkpoints/<name>.pt; with several ranks all must call this."""
        path = self.run.checkpoints / f"{name}.pt"
        state = self.state_dict()
        if self.ranks.is_first:
            write_file(state, path)
        return path

    def _iterate(self, *, is_last: bool) -> None:
        started = time.perf_counter()
        episodes = self.rollout.collect(self.buffer, self.generator, self.ranks.share)
        collected = time.perf_counter()
        row = episodes.drain(self.spec.agents, self.config.reward_mode, self.ranks.add)
        if self.ranks.is_first and not any(earlier["iteration"] for earlier in self.history):
            warn_about(row, self.buffer, self.config)
        if not self._run_is_open:
            self._open_run()  # only now: an env that raises at once leaves no files behind
        learning = time.perf_counter()
        row |= self.learn()
        rollout_s, update_s = collected - started, time.perf_counter() - learning
        steps = self.num_envs * len(self.buffer.actions)
        self.iteration += 1
        self.env_steps += steps
        if self.updater.compile_s is not None:
            row["time/compile_s"] = self.updater.compile_s  # part of the first update
        row |= rates(steps, len(self.spec.agents), rollout_s, update_s)
        if is_last or self.iteration % self.config.eval_every == 0:
            row |= self._evaluate(is_last=is_last)
        self._record(row)
        if self.config.checkpoint_freq and self.iteration % self.config.checkpoint_freq == 0:
            self.save(f"iteration_{self.iteration:06d}")
            if not is_last:  # `train` saves it
                self.save("latest")

    def learn(self) -> Row:
        """Update policy and critic from the buffer, then let the normalisers see it; returns metrics.

        Raises:
            ValueError: an observation, a state, a reward or what became of them is not finite.
        """
        place = f"iteration {self.iteration + 1}:"
        self.updater.check_parameters()
        add = self.ranks.add
        with self.ranks.together():
            check_inputs(self.policy.obs_norm, self.state_norm, self.spec, place)
        nets = Networks(self.policy, self.critic, self.state_norm, self.value_norm)
        targets = make_batch(self.buffer, nets, target_settings(self.config, self.group_size), add)
        self.rollout.memory = self.rollout.memory._replace(critic=targets.critic_memory)
        sizes = self.config.step_sizes(self.iteration)
        metrics = targets.metrics | self.updater.update(targets.batch, sizes, self.generator)
        if (std := self.policy.actor.mean_std()) is not None:
            metrics["policy/std"] = std
        self.policy.obs_norm.commit(add)
        self.state_norm.commit(add)
        row = to_floats(metrics) | {f"policy/{name}": value for name, value in asdict(sizes).items()}
        if broken := [name for name, value in row.items() if not math.isfinite(value)]:
            cause = self.ranks.told_by_any(cause_of_non_finite(self.buffer, self.spec.agents))
            cause = cause or "rewards and observations are finite, so lower --lr or --max-grad-norm"
            raise ValueError(f"{place} {', '.join(broken)} not finite; {cause}. The last checkpoint is unharmed")
        return row

    def _open_run(self) -> None:
        """Create the run folder and loggers; a new run is evaluated before its first update."""
        with self.ranks.together():
            if self.ranks.is_first:
                self.run = self.run.create(self.config, self.env_spec)
        self.run = self.ranks.from_first(self.run)
        self._run_is_open = True
        if not self.ranks.is_first:
            self.loggers = []
        elif self.given_loggers is None:
            place = {"iteration": self.iteration, "env_steps": self.env_steps}
            self.loggers = default_loggers(self.config, self.env_spec, self.run.path, **place)
        else:
            self.loggers = list(self.given_loggers)
        if self.iteration == 0 and (row := self._evaluate()):
            self._record(row)

    def _evaluate(self, *, is_last: bool = False) -> Row:
        """Evaluate the parameters as they are, keep the best, log pictures; nothing for an env that never ends.

        Pictures take longer than the evaluation, so there are some of the first, fourth, sixteenth ... and last.
        """
        if self.eval_env is None or self._endless:
            return {}
        started = time.perf_counter()
        try:
            result = self.evaluate()
        except EndlessEpisodeError as error:
            warnings.warn(f"{error} There will be no evaluation", stacklevel=2)
            self._endless = True
            return {}
        if result.score > self.best_score:
            self.best_score, self.best_iteration = result.score, self.iteration
            self.save("best")
        self._evaluations += 1
        power = self._evaluations.bit_length() - 1
        in_turn = is_last or (self._evaluations == 2**power and power % 2 == 0)
        if in_turn and self.ranks.is_first and (figures := getattr(self.eval_env, "figures", None)):
            drawn = {f"figures/{name}": figure for name, figure in figures().items()}
            for logger in self.loggers:
                logger.log_figures(self.env_steps, drawn)
        row = {f"eval/{name}": value for name, value in result.summary.items()}
        return row | {"time/eval_s": time.perf_counter() - started}

    def _record(self, row: Row) -> None:
        agent_steps = self.env_steps * len(self.spec.agents)
        counters = {"iteration": self.iteration, "env_steps": self.env_steps, "agent_steps": agent_steps}
        now = time.perf_counter()
        self.elapsed_s, self._clock = self.elapsed_s + now - self._clock, now
        overall = {"time/elapsed_s": self.elapsed_s, "time/overall_steps_per_s": self.env_steps / self.elapsed_s}
        row = counters | row | overall
        self.history.append(row)
        for logger in self.loggers:
            logger.log(self.env_steps, row)
        for callback in self.callbacks:
            callback.on_iteration_end(self, row)

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs; of several ranks all must call this, and the first gets it all."""
        env_state, rollout = states_of_copies(self.env, self.rollout, self.ranks)
        return {
            "config": self.config.to_dict(),
            "env": {"spec": self.env_spec, "num_envs": self.num_envs},
            "ranks": self.ranks.count,
            "env_state": env_state,
            "policy": self.policy.payload(),
            **{name: module.state_dict() for name, module in self._modules().items()},
            "generator": {"device": self.device.type, "state": self.generator.get_state()},
            "rollout": rollout,
            "progress": {name: getattr(self, name) for name in PROGRESS},
            "run_dir": str(self.run.path.resolve()),
            "versions": versions(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; an env whose state is not in it starts new episodes, and a note says so."""
        self.policy.load_state_dict(state["policy"]["weights"])
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        if (device := state["generator"]["device"]) == self.device.type:
            self.generator.set_state(state["generator"]["state"])
        else:  # no two types of device have the same generator; this one is seeded as for a new run
            self.notes.append(f"--device {device} -> {self.device.type}: random numbers start anew")
        for name in PROGRESS:
            setattr(self, name, state["progress"][name])
        restores = state["env_state"] is not None and hasattr(self.env, "load_state_dict")
        if restores and self.num_envs != (copies := state["env"]["num_envs"]):
            raise ValueError(f"--num-envs {self.num_envs} must be that of the checkpoint to resume; use {copies}")
        if note := load_copies(state["env_state"], state["rollout"], self.env, self.rollout, self.ranks):
            self.notes.append(note)

    def _modules(self) -> dict[str, Any]:
        return {
            "critic": self.critic,
            "state_norm": self.state_norm,
            "value_norm": self.value_norm,
            **self.updater.optimizers(),
        }

    @classmethod
    def resume(
        cls,
        path: str | Path,
        env: VecEnv | Factory,
        eval_env: VecEnv | Factory | None = None,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] | None = None,
        ranks: Ranks | None = None,
        **overrides: Any,
    ) -> Self:
        """Continue a run in its own folder, exactly as if it had not stopped; `overrides` are fields of TrainConfig."""
        content = read_file(path)
        if "rollout" not in content:
            raise ValueError(f"{path} holds only a policy; resume from a checkpoint of a run, such as latest.pt")
        with unpacking(path):
            stored, run_dir = TrainConfig.from_dict(content["config"]), content["run_dir"]
        config = checked_config(stored.resumed(overrides), env)
        with ExitStack() as undo:
            env, eval_env = make_envs(env, eval_env, config, undo, ranks or Ranks())
            with unpacking(path):
                check_fits(EnvSpec.from_dict(content["policy"]["spec"]), EnvSpec.of(env), path)
            run = RunFolder.of_checkpoint(Path(path), run_dir, config.checkpoint_dir)
            run = run or RunFolder.new(replace(config, experiment_name=None), env_name(env))
            trainer = cls(env, config, eval_env, callbacks, loggers, run, ranks)
            with unpacking(path):
                trainer.load_state_dict(content)
            undo.pop_all()
        trainer.notes[:0] = [*run.resume_notes(Path(path), run_dir), *config.stretch_notes(stored)]
        if not (run.checkpoints / "best.pt").exists():  # of another folder: the next evaluation is the best in this
            trainer.best_score, trainer.best_iteration = -math.inf, -1
        return trainer


PROGRESS = ("iteration", "env_steps", "best_score", "best_iteration", "elapsed_s")
