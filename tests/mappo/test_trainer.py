"""Whole runs: learning, determinism, exact resume, what is on disk, messages."""

import csv
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from mappo import TrainConfig, Trainer, load_policy
from mappo.buffer import Batch
from mappo.checkpoint import read_file, write_file
from mappo.config import StepSizes
from mappo.update import Metrics
from mappo.vec_env import Step
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import ConstantEnv, MortalEnv, TargetEnv


def weights(trainer: Trainer) -> list[torch.Tensor]:
    modules = (trainer.policy, trainer.critic, trainer.state_norm, trainer.value_norm)
    return [value for module in modules for value in module.state_dict().values()]


def same(one: Trainer, other: Trainer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def logged(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
@pytest.mark.parametrize("sharing", ["shared", "independent"])
def test_it_learns_to_match_the_targets(make_trainer: MakeTrainer, algo: str, sharing: str) -> None:
    env, held_out = TargetEnv(64), TargetEnv(64, seed=1, same_episodes=True)
    settings: dict[str, Any] = {"iterations": 20, "num_steps": 16, "hidden_dim": 64, "num_minibatches": 8, "gamma": 0.9}
    trainer = make_trainer(env, held_out, algo=algo, policy_sharing=sharing, eval_every=20, **settings)
    history = trainer.train()
    assert history[0]["eval/return"] < -1.5  # doing what idle_action says
    assert history[-1]["eval/return"] > -0.15
    assert trainer.best_score == history[-1]["eval/score"]


def test_a_time_limit_is_bootstrapped(make_trainer: MakeTrainer) -> None:
    """Reward 1 for ever, cut every 8 steps: V = 1 / (1 - gamma) = 10; treating the cut as an end gives about 4."""
    settings: dict[str, Any] = {"gamma": 0.9, "lr": 1e-2, "num_epochs": 8, "iterations": 40}
    trainer = make_trainer(ConstantEnv(limit=True), lr_schedule="constant", **settings)
    trainer.train()
    buffer = trainer.buffer
    values, _ = trainer.critic(buffer.obs, buffer.state, buffer.critic_memory, buffer.starts)
    assert abs(trainer.value_norm.denormalize(values).mean().item() - 10) < 0.5


def test_the_same_seed_gives_the_same_parameters_and_another_does_not(make_trainer: MakeTrainer) -> None:
    runs = [make_trainer(seed=seed) for seed in (1, 1, 2)]
    for trainer in runs:
        trainer.train()
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_training_leaves_the_global_rng_alone(make_trainer: MakeTrainer) -> None:
    before = torch.get_rng_state()
    make_trainer(eval_env=TargetEnv(4)).train()
    assert torch.equal(before, torch.get_rng_state())


RESUMED: list[dict[str, Any]] = [
    {},
    {"policy_sharing": "independent", "action_dist": "tanh_gaussian"},
    {"recurrent": "gru", "chunk_length": 5},
    {"recurrent": "lstm", "chunk_length": 5, "algo": "ippo", "policy_sharing": "independent", "layer_norm": True},
    {"algo": "happo", "recurrent": "gru", "chunk_length": 5},
    {"policy_map": {"agent_0": "a", "agent_1": "b", "agent_2": "a"}, "grad_accumulation": 2, "action_dist": "beta"},
]


@pytest.mark.parametrize("kind", RESUMED)
def test_stopping_and_resuming_equals_not_stopping_bit_for_bit(make_trainer: MakeTrainer, kind: dict[str, Any]) -> None:
    def env() -> TargetEnv:
        return TargetEnv(horizon=7)  # episodes cross the rollouts of 5 steps

    whole = make_trainer(env(), iterations=6, **kind)
    whole.train()
    half = make_trainer(env(), iterations=6, stop_after=3, **kind)
    half.train()
    assert half.iteration == 3
    rest = Trainer.resume(half.run.checkpoints / "latest.pt", env())
    assert not rest.notes
    rest.train()
    assert same(whole, rest)
    assert [logged(row) for row in whole.history] == [logged(row) for row in half.history + rest.history]


def test_a_resume_continues_the_same_table(make_trainer: MakeTrainer) -> None:
    first = make_trainer(iterations=4, checkpoint_freq=2)
    first.train()
    again = Trainer.resume(first.run.checkpoints / "iteration_000002.pt", TargetEnv(), iterations=5)
    assert "iteration_000002.pt is not the latest checkpoint of its run: later rows and checkpoints" in again.notes[0]
    assert again.notes[1:] == ["--iterations 4 -> 5: the schedule is stretched to the new total"]
    again.train()
    assert again.run == first.run
    with (first.run.path / "metrics.csv").open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]


def test_an_env_without_state_restarts_its_episodes_and_says_so(make_trainer: MakeTrainer) -> None:
    first = make_trainer(stop_after=1)
    first.train()
    env = TargetEnv()
    env.load_state_dict = None  # pyright: ignore[reportAttributeAccessIssue]
    again = Trainer.resume(first.run.checkpoints / "latest.pt", env)
    assert "episodes start anew" in again.notes[0]
    again.train()
    assert again.iteration == 2


def test_resume_refuses_what_cannot_change(make_trainer: MakeTrainer) -> None:
    first = make_trainer()
    first.train()
    latest = first.run.checkpoints / "latest.pt"
    with pytest.raises(ValueError, match=r"--hidden-dim 99 cannot change on resume .the checkpoint has 16"):
        Trainer.resume(latest, TargetEnv(), hidden_dim=99)
    with pytest.raises(ValueError, match=r"--num-envs 8 must be that of the checkpoint to resume; use 16"):
        Trainer.resume(latest, TargetEnv(8), iterations=5)
    with pytest.raises(ValueError, match=r"--iterations 2 iterations are done already"):
        Trainer.resume(latest, TargetEnv()).train()


def test_a_request_to_stop_saves_and_returns(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(iterations=50)

    class StopAtTwo:
        def on_train_start(self, trainer: Trainer) -> None: ...

        def on_iteration_end(self, trainer: Trainer, row: Mapping[str, float]) -> None:
            if row["iteration"] == 2:
                trainer.request_stop()

        def on_train_end(self, trainer: Trainer) -> None: ...

    trainer.callbacks = (StopAtTwo(),)
    trainer.train()
    assert Trainer.resume(trainer.run.checkpoints / "latest.pt", TargetEnv()).iteration == 2


def test_the_run_folder_holds_what_it_should(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_env=TargetEnv(4), iterations=3, checkpoint_freq=2, experiment_name="mine")
    trainer.train()
    names = {str(path.relative_to(trainer.run.path)) for path in trainer.run.path.rglob("*") if path.is_file()}
    files = {"latest.pt", "best.pt", "iteration_000002.pt"}
    assert names == {"config.json", "metrics.csv"} | {f"checkpoints/{name}" for name in files}
    assert trainer.run.path.name == "mine"
    assert load_policy(trainer.run.checkpoints / "best.pt").spec == trainer.spec


def test_a_taken_name_is_refused(make_trainer: MakeTrainer) -> None:
    make_trainer(experiment_name="mine").train()
    with pytest.raises(ValueError, match=r"--experiment-name mine: .* exists already"):
        make_trainer(experiment_name="mine")


def test_an_env_that_raises_leaves_nothing_behind(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    class Broken(TargetEnv):
        def step(self, actions: torch.Tensor) -> Step:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match=r"broken"):
        make_trainer(Broken()).train()
    with pytest.raises(ValueError, match=r"--device banana"):
        make_trainer(device="banana")
    with pytest.raises(ValueError, match=r"--num-minibatches 7 must divide"):
        make_trainer(num_minibatches=7)
    with pytest.raises(ValueError, match=r"eval_env must have the spaces of env"):
        make_trainer(TargetEnv(), TargetEnv(4, (1, 1)))
    for group_size in (0, 3):
        env = TargetEnv(16)
        env.group_size = group_size  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(ValueError, match=rf"env.group_size must .* divide num_envs 16, got {group_size}"):
            make_trainer(env)
    assert list(tmp_path.iterdir()) == []


def test_advantages_are_centred_in_the_groups_of_the_env(make_trainer: MakeTrainer) -> None:
    env = TargetEnv(16)
    env.group_size = 4  # pyright: ignore[reportAttributeAccessIssue]
    trainer = make_trainer(env, advantage_norm="none", iterations=1)
    seen: list[torch.Tensor] = []
    update = trainer.updater.update

    def remember(batch: Batch, sizes: StepSizes, generator: torch.Generator) -> Metrics:
        seen.append(batch.advantages)
        return update(batch, sizes, generator)

    trainer.updater.update = remember
    trainer.train()
    advantages = seen[0][0].unflatten(0, (-1, 4))  # (T x groups, 4, A)
    assert advantages.std() > 0
    torch.testing.assert_close(advantages.mean(1), torch.zeros_like(advantages[:, 0]), atol=1e-5, rtol=0)


def test_rows_count_steps_and_leave_out_the_return_before_an_episode_ends(make_trainer: MakeTrainer) -> None:
    history = make_trainer(TargetEnv(horizon=8)).train()
    assert "train/return" not in history[0]
    assert history[0]["train/episodes"] == 0
    assert history[1]["train/episodes"] == 16
    assert history[1]["train/episode_length"] == 8
    assert history[1]["env_steps"] == 160
    assert history[1]["agent_steps"] == 480
    # the team's cost is the mean of the agents' costs, and the reward is minus that
    torch.testing.assert_close(history[1]["train/return"], -history[1]["train/cost"])


def test_agents_that_die_do_not_end_the_teams_episode(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(MortalEnv(limit=True), num_steps=8, reward_mode="individual")
    history = trainer.train()
    assert history[-1]["train/episode_length"] == 8
    alive = trainer.buffer.alive.float().mean((0, 1))
    torch.testing.assert_close(alive, torch.tensor([3 / 8, 1.0, 1.0]))
    assert (trainer.policy.obs_norm.count == 2 * 8 * (3 + 8 + 8)).all()


def test_the_policy_starts_at_the_idle_action(make_trainer: MakeTrainer) -> None:
    env = TargetEnv()
    for dist in ("gaussian", "tanh_gaussian"):
        actions = make_trainer(env, action_dist=dist).policy.act(env.reset()[0])
        assert (actions - 0.25).abs().max() < 0.05


def test_the_config_decides_the_weights_not_the_env_seed(make_trainer: MakeTrainer) -> None:
    assert same(make_trainer(TargetEnv(seed=0)), make_trainer(TargetEnv(seed=5)))


def test_evaluate_needs_an_eval_env(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match=r"evaluate needs an eval_env"):
        make_trainer().evaluate()


def test_a_resume_on_another_type_of_device_draws_anew_and_says_so(make_trainer: MakeTrainer) -> None:
    first = make_trainer(stop_after=1)
    first.train()
    latest = first.run.checkpoints / "latest.pt"
    content = read_file(latest)
    # what a CUDA generator's state looks like to a CPU generator: of another size
    write_file(content | {"generator": {"device": "cuda", "state": torch.zeros(16, dtype=torch.uint8)}}, latest)
    again = Trainer.resume(latest, TargetEnv())
    assert again.notes == ["--device cuda -> cpu: random numbers start anew"]
    again.train()
    assert again.iteration == 2


def test_checkpoints_in_a_folder_of_their_own_are_kept_apart_and_found(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # of another program
    runs = [make_trainer(checkpoint_dir="ckpts", experiment_name=name, stop_after=1) for name in ("a", "b")]
    for run in runs:
        run.train()
        assert run.run.checkpoints == tmp_path / "ckpts" / run.run.path.name
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Trainer.resume(tmp_path / "ckpts" / "b" / "latest.pt", TargetEnv())
    assert not again.notes
    again.train()
    assert again.run.path == runs[1].run.path
    assert read_file(tmp_path / "ckpts" / "a" / "latest.pt")["progress"]["iteration"] == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_resume_whose_run_folder_is_gone_begins_a_new_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    first = make_trainer(eval_env=TargetEnv(4), stop_after=1, experiment_name="mine", checkpoint_dir=str(tmp_path))
    first.train()
    shutil.rmtree(first.run.path)
    again = Trainer.resume(tmp_path / "mine" / "latest.pt", TargetEnv(), TargetEnv(4))
    assert "mine is gone: a new one is begun" in again.notes[0]
    again.train()
    assert again.run.path != first.run.path
    assert (again.run.checkpoints / "best.pt").exists(), "the best evaluation that is reported must have a checkpoint"


@pytest.mark.parametrize("setting", ["runs_dir", "checkpoint_dir"])
def test_a_folder_that_cannot_be_made_is_told_and_leaves_nothing(
    make_trainer: MakeTrainer, tmp_path: Path, setting: str
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    settings: dict[str, Any] = {"runs_dir": str(tmp_path / "runs" / "deep"), setting: str(blocked / "deep")}
    with pytest.raises(
        ValueError, match=rf"--{setting.replace('_', '-')} must be a folder that can be written to; got"
    ):
        make_trainer(**settings).train()
    assert list(tmp_path.iterdir()) == [blocked]


def test_what_the_trainer_cannot_store_is_refused_at_once(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    env = TargetEnv()
    env.spec = {"network": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"env.spec must hold plain values that JSON knows .*Tensor"):
        make_trainer(env)
    with pytest.raises(ValueError, match=r"config must be a TrainConfig, got dict"):
        Trainer(TargetEnv(), {"algo": "mappo"})  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_the_elapsed_time_is_that_of_the_clock(make_trainer: MakeTrainer) -> None:
    class Slow(TargetEnv):
        def reset(self) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0.1)
            return super().reset()

    trainer = make_trainer(eval_env=Slow(4), iterations=2, eval_every=1)
    history = trainer.train()
    assert history[-1]["time/elapsed_s"] > 0.3
    assert history[-1]["time/eval_s"] > 0.1
    overall = history[-1]["env_steps"] / history[-1]["time/elapsed_s"]
    assert history[-1]["time/overall_steps_per_s"] == pytest.approx(overall)
    rest = Trainer.resume(trainer.run.checkpoints / "latest.pt", TargetEnv(), iterations=3).train()
    assert history[-1]["time/elapsed_s"] < rest[0]["time/elapsed_s"]


def test_one_way_to_size_minibatches_replaces_the_other_on_resume(make_trainer: MakeTrainer) -> None:
    first = make_trainer(num_minibatches=2)
    first.train()
    again = Trainer.resume(first.run.checkpoints / "latest.pt", TargetEnv(), iterations=3, minibatch_size=20)
    assert (again.config.minibatch_size, again.config.num_minibatches) == (20, None)
    assert TrainConfig(minibatch_size=20).making_way_for(["num_minibatches"]) == TrainConfig()


def test_pictures_are_of_the_first_evaluations_ever_fewer_of_the_later_ones_and_the_last(
    make_trainer: MakeTrainer,
) -> None:
    held_out = TargetEnv(4, seed=1, same_episodes=True)
    drawn: list[int] = []
    trainer = make_trainer(TargetEnv(4), held_out, iterations=9, eval_every=1)
    held_out.figures = lambda: drawn.append(trainer.iteration) or {}  # pyright: ignore[reportAttributeAccessIssue]
    trainer.train()
    assert drawn == [0, 3, 9]  # evaluations 1, 4 and the tenth
