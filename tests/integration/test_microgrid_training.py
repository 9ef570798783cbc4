"""Trainer and microgrid together: it learns, it resumes bit for bit, and its time limits are bootstrapped."""

from pathlib import Path
from typing import Any

import pytest
import torch

import envs
from mappo import TrainConfig, Trainer, load_policy


def trainer(tmp_path: Path, *, num_envs: int = 8, env: dict[str, Any] | None = None, **settings: Any) -> Trainer:
    small = {"iterations": 2, "hidden_dim": 16, "num_minibatches": 2, "tensorboard": False, "seed": 1}
    keywords: dict[str, Any] = env or {}
    config = TrainConfig(**{**small, "runs_dir": str(tmp_path), **settings})
    return Trainer(
        envs.make(num_envs=num_envs, seed=1, **keywords),
        config,
        envs.make(split="val", evaluation=True, **keywords),
    )


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
def test_a_good_part_of_the_possible_savings_is_learnt_in_a_few_seconds(algo: str, tmp_path: Path) -> None:
    run = trainer(tmp_path, num_envs=128, algo=algo, iterations=12, hidden_dim=64, num_minibatches=32, num_epochs=4)
    run.train()
    scores = [row["eval/score"] for row in run.history if "eval/score" in row]
    assert scores[0] == pytest.approx(0.0, abs=0.1), "the first policy does nothing"
    assert scores[-1] > 0.15
    assert run.history[-1]["eval/violating"] < 0.01


def test_training_on_the_microgrid_resumes_bit_for_bit(tmp_path: Path) -> None:
    straight = trainer(tmp_path / "a", iterations=4)
    straight.train()
    half = trainer(tmp_path / "b", iterations=4, stop_after=2)
    half.train()
    rest = Trainer.resume(half.run.checkpoints / "latest.pt", envs.make(num_envs=8, seed=99))
    rest.train()
    for one, two in zip(straight.policy.state_dict().values(), rest.policy.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_resume_works_in_the_middle_of_a_week(tmp_path: Path) -> None:
    week: dict[str, Any] = {"horizon": "week"}
    straight = trainer(tmp_path / "a", env=week, iterations=4, gamma=0.99, num_steps=30)
    straight.train()
    half = trainer(tmp_path / "b", env=week, iterations=4, stop_after=2, gamma=0.99, num_steps=30)
    half.train()
    rest = Trainer.resume(half.run.checkpoints / "latest.pt", envs.make(num_envs=8, seed=99, **week))
    rest.train()
    for one, two in zip(straight.policy.state_dict().values(), rest.policy.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_week_needs_a_discount(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--gamma must be below 1"):
        trainer(tmp_path, env={"horizon": "week"})


def test_the_mean_of_individual_rewards_trains_as_the_shared_reward(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    row = run.history[-1]
    each = [row[f"train/return/{agent}"] for agent in ("MG1", "MG2", "MG3")]
    assert row["train/return"] == pytest.approx(sum(each) / 3, rel=1e-5)
    expected = -(row["train/cost_usd"] + row["train/penalty_usd"]) / (100 * 3)
    assert row["train/return"] == pytest.approx(expected, rel=1e-4)


def test_a_checkpoint_of_another_grid_is_refused_by_name(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.train()
    with pytest.raises(ValueError, match="pv_share"):
        Trainer.resume(run.run.checkpoints / "latest.pt", envs.make(num_envs=8, curtailment=True))


@pytest.mark.parametrize("settings", [{"policy_sharing": "independent"}, {"reward_mode": "individual"}])
def test_variants_train_and_their_policies_load(settings: dict[str, Any], tmp_path: Path) -> None:
    run = trainer(tmp_path, **settings)
    run.train()
    policy = load_policy(run.run.checkpoints / "latest.pt")
    obs, _ = run.env.reset()
    assert torch.equal(policy.act(obs), run.policy.act(obs))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_plays_as_a_cpu_trains_and_its_run_goes_on_without_one(tmp_path: Path) -> None:
    on = {device: envs.make(num_envs=8, seed=1, device=device) for device in ("cpu", "cuda")}
    for start in zip(*(env.reset() for env in on.values()), strict=True):
        torch.testing.assert_close(start[0], start[1].cpu(), atol=1e-4, rtol=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):  # into the second day
        actions = 2 * torch.rand(on["cpu"].action_shape, generator=generator) - 1
        here, there = (env.step(actions.to(env.device)) for env in on.values())
        for name in ("obs", "state", "rewards", "truncated"):
            torch.testing.assert_close(getattr(here, name), getattr(there, name).cpu(), atol=1e-3, rtol=1e-3)
    run = trainer(tmp_path, env={"device": "cuda"}, iterations=3, stop_after=2)
    run.train()
    rest = Trainer.resume(run.run.checkpoints / "latest.pt", envs.make(num_envs=8, seed=1))
    assert "--device cuda -> cpu: random numbers start anew" in rest.notes
    rest.train()
    assert rest.iteration == 3


def test_curtailment_and_quarter_hours_train(tmp_path: Path) -> None:
    run = trainer(tmp_path, env={"curtailment": True, "dt_h": 0.25}, num_steps=96)
    rows = run.train()
    assert rows[-1]["train/episodes"] == 8
