"""Evaluation: first episodes only, updated parameters, reductions, summaries."""

import pytest
import torch
from torch import Tensor

from mappo.evaluate import evaluate
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
