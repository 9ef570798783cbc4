"""Evaluation: first episodes only, updated parameters, reductions, summaries."""

from typing import Any

import pytest
import torch
from torch import Tensor

import envs
from envs.baselines import make_baseline
from mappo.evaluate import evaluate
from tests.envs.fault_scenarios import RANDOM
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import ScoredEnv, TargetEnv


class Idle:
    def act(self, obs: Tensor, action_mask: Tensor | None = None) -> Tensor:
        return torch.zeros(*obs.shape[:-1], 1)


def test_only_the_first_episode_of_each_copy_counts() -> None:
    result = evaluate(Idle(), ScoredEnv(4, horizon=99))
    assert result.lengths.tolist() == [1, 2, 3, 4]
    assert result.returns[:, 0].tolist() == [1, 2, 3, 4]
    assert result.totals["cost"].tolist() == [1, 2, 3, 4]  # sum
    assert result.totals["worst"].tolist() == [0, 1, 2, 3]  # max
    assert result.summary["return"] == 2.5
    assert result.summary["return/agent_1"] == 2.5
    assert result.score == 42.0
    assert result.summary["cost_total"] == 10.0


def test_the_team_return_follows_the_reward_mode() -> None:
    assert evaluate(Idle(), ScoredEnv(2, horizon=99), reward_mode="sum").summary["return"] == 4.5


def test_the_logged_score_is_that_of_the_updated_parameters(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_env=TargetEnv(8, seed=3, same_episodes=True), iterations=3)
    history = trainer.train()
    assert [row["iteration"] for row in history if "eval/score" in row] == [0, 3]
    assert trainer.evaluate().score == history[-1]["eval/score"]
    assert history[0]["eval/score"] != history[-1]["eval/score"]


def test_an_env_that_never_ends_is_told() -> None:
    with pytest.raises(ValueError, match=r"3 of 3 copies did not end an episode within --eval-max-steps 20"):
        evaluate(Idle(), TargetEnv(3, horizon=999), max_steps=20)


def test_evaluation_is_deterministic(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    one, other = (evaluate(trainer.policy, TargetEnv(4, same_episodes=True)) for _ in range(2))
    assert torch.equal(one.returns, other.returns)


@pytest.mark.parametrize("at_once", [1, 3 * 72, 4 * 72, 1000 * 72], ids=["1", "3", "4", "all"])
def test_episodes_in_turns_are_those_of_enough_copies(at_once: int) -> None:
    keys: dict[str, Any] = {"num_envs": 10, "split": "val", "evaluation": True, "events": RANDOM}
    together, apart = envs.make(**keys), envs.make(**keys, buses_at_once=at_once)
    assert apart.num_episodes == 10
    assert apart.num_envs == {1: 1, 216: 3, 288: 4, 72000: 10}[at_once]
    policy = make_baseline("rule", together)
    whole, turns = evaluate(policy, together), evaluate(make_baseline("rule", apart), apart)
    assert turns.returns.shape == (10, 3)
    torch.testing.assert_close(turns.returns, whole.returns)
    torch.testing.assert_close(turns.summary["score"], whole.summary["score"])
    assert evaluate(make_baseline("rule", apart), apart).summary == turns.summary  # the first turn comes first again
    assert list(apart.episode_dates()) == together.day.tolist()
    assert tuple(apart.episode_dates().values()) == together.dates


def test_the_shipped_reference_is_that_of_every_turns_days() -> None:
    keys: dict[str, Any] = {"split": "val", "evaluation": True}
    together, apart = envs.make(**keys), envs.make(**keys, buses_at_once=20 * 72)
    whole, turns = (evaluate(make_baseline("idle", env), env).summary for env in (together, apart))
    assert turns["bound_usd_per_day"] == whole["bound_usd_per_day"]
    assert turns["score"] == pytest.approx(whole["score"], abs=1e-6)


def test_turns_are_for_evaluations() -> None:
    with pytest.raises(ValueError, match="buses_at_once must be at least 1 and is for an evaluation, got 100"):
        envs.make(num_envs=4, buses_at_once=100)
