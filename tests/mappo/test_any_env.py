"""The trainer on PettingZoo environments: factories, presets, episodes without end, resume."""

import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from pettingzoo.utils import parallel_to_aec

from mappo import PRESETS, TrainConfig, Trainer, load_policy
from mappo.parts import HELD_OUT, is_factory
from mappo.presets import PRESET_HELP
from tests.toy_envs import TargetEnv
from tests.toy_parallel import MaskedEnv, MortalParallelEnv, NestedEnv, ToyParallelEnv

SMALL: dict[str, Any] = {"iterations": 2, "num_envs": 4, "num_steps": 5, "num_minibatches": 2, "hidden_dim": 8}
SMALL |= {"gamma": 0.9, "eval_episodes": 3, "tensorboard": False}


def mortal() -> ToyParallelEnv:
    return MortalParallelEnv({"early": (0, 3), "late": (2, 9)}, horizon=5)


def trainer_of(tmp_path: Path, factory: Callable[[], Any], **settings: Any) -> Trainer:
    return Trainer(factory, TrainConfig(**{**SMALL, "runs_dir": str(tmp_path), **settings}))


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.policy.state_dict().values(), *trainer.critic.state_dict().values()]


@pytest.mark.parametrize("factory", [ToyParallelEnv, NestedEnv, MaskedEnv, mortal])
@pytest.mark.parametrize("recurrent", ["none", "lstm"])
def test_one_line_trains_on_any_parallel_env(tmp_path: Path, factory: Callable[[], Any], recurrent: str) -> None:
    trainer = trainer_of(tmp_path, factory, recurrent=recurrent, chunk_length=5, reward_mode="individual")
    history = trainer.train()
    assert history[-1]["train/episodes"] == 4
    assert "eval/return" in history[0]
    policy = load_policy(trainer.run.checkpoints / "best.pt")
    assert policy.spec == trainer.spec
    trainer.close()


def test_training_and_evaluation_have_different_episodes(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, ToyParallelEnv)
    assert trainer.eval_env is not None
    assert (trainer.env.num_envs, trainer.eval_env.num_envs) == (4, 3)
    assert trainer.env.spec["seed"] == 42  # pyright: ignore[reportAttributeAccessIssue]
    assert trainer.eval_env.spec["seed"] == 42 + HELD_OUT  # pyright: ignore[reportAttributeAccessIssue]
    assert not torch.equal(trainer.env.reset()[0][:3], trainer.eval_env.reset()[0])


def test_workers_change_no_number(tmp_path: Path) -> None:
    runs = [trainer_of(tmp_path, NestedEnv, num_workers=workers) for workers in (0, 2)]
    for trainer in runs:
        trainer.train()
        trainer.close()
    assert all(torch.equal(a, b) for a, b in zip(*map(weights, runs), strict=True))


@pytest.mark.parametrize(("num_steps", "exact"), [(5, True), (4, False)])
def test_a_resume_is_exact_where_the_rollout_ends_with_its_episodes(
    tmp_path: Path, num_steps: int, exact: bool
) -> None:
    whole = trainer_of(tmp_path, ToyParallelEnv, iterations=4, num_steps=num_steps)
    whole.train()
    half = trainer_of(tmp_path, ToyParallelEnv, iterations=4, num_steps=num_steps, stop_after=2)
    half.train()
    rest = Trainer.resume(half.run.checkpoints / "latest.pt", ToyParallelEnv)
    assert bool(rest.notes) != exact
    assert all("start anew" in note for note in rest.notes)
    rest.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(rest), strict=True)) == exact


def test_an_env_that_never_ends_is_warned_of_and_has_no_return(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lambda: ToyParallelEnv(horizon=None), eval_max_steps=20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = trainer.train()
    texts = [str(warning.message) for warning in caught]
    assert sum("no episode ended in the first 5 steps of 4 copies" in text for text in texts) == 1
    assert sum("within --eval-max-steps 20" in text for text in texts) == 1
    assert len(history) == 2
    for row in history:
        assert row["train/episodes"] == 0
        assert not any(name.startswith(("eval/", "train/return")) for name in row)


def test_a_time_limit_without_a_discount_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"with --gamma 1 that value has no bound"):
        trainer_of(tmp_path, ToyParallelEnv, gamma=1.0).train()


def test_what_is_no_factory_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"env is a ToyParallelEnv itself; give a function .* Trainer\(lambda: env\)"):
        Trainer(ToyParallelEnv())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"is an AECEnv.*aec_to_parallel"):
        Trainer(lambda: parallel_to_aec(ToyParallelEnv()))
    with pytest.raises(ValueError, match=r"--num-envs 4 must be that of the env, 16"):
        Trainer(TargetEnv(16), TrainConfig(num_envs=4))
    with pytest.raises(ValueError, match=r"--num-workers 3 must divide --num-envs 4"):
        Trainer(ToyParallelEnv, TrainConfig(num_envs=4, num_workers=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_minibatches": 7}, r"--num-minibatches 7 must divide"),
        ({"device": "banana"}, r"--device banana"),
        ({"policy_map": {"one": "a"}}, r"--policy-map must name each of the agents"),
        ({"wandb": True}, r"--wandb needs the package wandb"),
    ],
)
def test_what_fails_leaves_no_process_behind(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, ToyParallelEnv, num_workers=2, **settings)
    assert set(multiprocessing.active_children()) <= before


def test_a_class_and_a_function_are_factories_and_a_vec_env_is_none() -> None:
    assert is_factory(ToyParallelEnv)
    assert is_factory(lambda: 1)
    assert not is_factory(TargetEnv())
    assert not is_factory(None)


def test_a_factory_alone_is_trained_with_the_general_preset() -> None:
    assert Trainer(ToyParallelEnv).config == PRESETS["default"]


def test_every_preset_is_explained() -> None:
    assert set(PRESET_HELP) == set(PRESETS)


class Relay(ToyParallelEnv):
    """The first agent leaves when the second takes over; one episode of four steps."""

    def __init__(self) -> None:
        super().__init__(("a", "b"), horizon=4)

    def after(self, time: int) -> list[str]:
        return ["a"] if time < 2 else ["b"]

    def terminates(self, agent: str) -> bool:
        return agent == "a" and self.time == 2

    def reward(self, agent: str, actions: dict[str, Any]) -> float:
        return float(agent in actions)


def test_an_episode_goes_on_when_new_agents_take_over_from_the_last_ones(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Relay, num_steps=4, reward_mode="sum")
    row = trainer.train()[-1]
    assert (row["train/episode_length"], row["train/return"]) == (4, 4)
    assert (row["eval/episode_length"], row["eval/return"]) == (4, 4)
    assert trainer.buffer.ended.sum(0).tolist() == [1, 1, 1, 1]


def test_grouped_means_equal_spaces(tmp_path: Path) -> None:
    class Alike(ToyParallelEnv):
        """Three agents whose observations are as wide, but not the same."""

        def __init__(self) -> None:
            super().__init__(("a", "b", "c"))
            self.observation_spaces["b"] = spaces.Discrete(3)

        def observe(self, agent: str) -> Any:
            return 1 if agent == "b" else super().observe(agent)

    trainer = trainer_of(tmp_path, Alike, policy_sharing="grouped")
    assert trainer.policy.actor.body.policy_ids.tolist() == [0, 1, 0]
