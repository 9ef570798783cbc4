"""What is deployed: act, for_agent, save and load."""

from pathlib import Path

import pytest
import torch

from mappo import load_policy
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import TargetEnv


@pytest.mark.parametrize("sharing", ["shared", "independent", "grouped"])
def test_a_saved_policy_acts_as_before(make_trainer: MakeTrainer, tmp_path: Path, sharing: str) -> None:
    env = TargetEnv(8, (1, 2, 1), obs_padding=(0, 1, 0))
    trainer = make_trainer(env, policy_sharing=sharing)
    trainer.train()
    obs, _ = env.reset()
    want = trainer.policy.act(obs)
    trainer.policy.save(tmp_path / "policy.pt")
    for path in (tmp_path / "policy.pt", trainer.run.checkpoints / "latest.pt"):
        policy = load_policy(path)
        assert torch.equal(policy.act(obs), want)
        for a, name in enumerate(env.agents):
            own = obs[:, a, : policy.spec.obs_widths[a]]
            columns = policy.spec.action_spec.valid[a]
            torch.testing.assert_close(policy.for_agent(name).act(own), want[:, a, columns])
            torch.testing.assert_close(policy.for_agent(name).act(own[0]), want[0, a, columns])


def test_actions_stay_in_bounds_and_samples_vary(make_trainer: MakeTrainer) -> None:
    env = TargetEnv(8)
    policy = make_trainer(env, log_std_init=2.0).policy
    obs, _ = env.reset()
    rng = torch.Generator().manual_seed(0)
    actions = policy.act(obs, deterministic=False, generator=rng)
    assert actions.abs().max() <= 1
    assert not torch.equal(actions, policy.act(obs, deterministic=False, generator=rng))
    policy.actor.body.output.bias.data += 9
    assert (policy.act(obs) == 1).all()


def test_obs_of_another_type_are_taken(make_trainer: MakeTrainer) -> None:
    env = TargetEnv(8)
    policy = make_trainer(env).policy
    obs, _ = env.reset()
    assert torch.equal(policy.act(obs.double()), policy.act(obs))


def test_a_policy_does_not_care_what_its_critic_saw(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    class Wider(TargetEnv):
        def __init__(self) -> None:
            super().__init__()
            self.state_dim += 1

    make_trainer().policy.save(tmp_path / "policy.pt")
    wider = make_trainer(Wider(), seed=7)
    wider.policy.start_from(tmp_path / "policy.pt")
    obs, _ = TargetEnv().reset()
    assert torch.equal(wider.policy.act(obs), load_policy(tmp_path / "policy.pt").act(obs))
    with pytest.raises(ValueError, match=r"agents: "):
        make_trainer(TargetEnv(8, (1, 1))).policy.start_from(tmp_path / "policy.pt")


def test_wrong_calls_are_told(make_trainer: MakeTrainer) -> None:
    policy = make_trainer().policy
    with pytest.raises(ValueError, match=r"act: obs must be \(B, 3, 2\); got \(3, 2\)"):
        policy.act(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"unknown agent 'MG9'; the agents are agent_0, agent_1, agent_2"):
        policy.for_agent("MG9")
    with pytest.raises(ValueError, match=r"agent_0 observes 2 columns"):
        policy.for_agent("agent_0").act(torch.zeros(7))


def test_a_run_can_start_from_another_runs_policy(make_trainer: MakeTrainer) -> None:
    first = make_trainer()
    first.train()
    second = make_trainer(seed=7)
    second.policy.start_from(first.run.checkpoints / "latest.pt")
    obs = TargetEnv().reset()[0]
    assert torch.equal(first.policy.act(obs), second.policy.act(obs))
    with pytest.raises(ValueError, match=r"--hidden-dim 8 must be that of the policy in .*, 16"):
        make_trainer(hidden_dim=8).policy.start_from(first.run.checkpoints / "latest.pt")
