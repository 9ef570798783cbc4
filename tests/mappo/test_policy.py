"""What is deployed: act, for_agent, save and load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces

from mappo import load_policy
from tests.mappo.conftest import MakeTrainer, iterate
from tests.toy_envs import TargetEnv
from tests.toy_tasks import RandomEnv

MIXED: list[spaces.Space[Any]] = [
    spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Discrete(2))),
    spaces.MultiDiscrete([2, 4]),
    spaces.Box(0, 5, (1,)),
]


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


@pytest.mark.parametrize("settings", [{"action_dist": "beta", "recurrent": "lstm"}, {"layer_norm": True}])
def test_any_kind_of_policy_comes_back_from_its_file(
    make_trainer: MakeTrainer, tmp_path: Path, settings: dict[str, Any]
) -> None:
    named = {"agent_0": "b", "agent_1": "a", "agent_2": "b"}
    env = RandomEnv(MIXED, mortal=False)
    trainer = make_trainer(env, policy_map=named, num_steps=8, gamma=0.9, **settings)
    iterate(trainer)
    trainer.policy.save(tmp_path / "policy.pt")
    again = load_policy(tmp_path / "policy.pt")
    assert again.config.policy_map == named
    assert again.actor.body.num_policies == 2
    obs, _ = env.reset()
    for _ in range(3):
        assert torch.equal(again.act(obs, env.mask()), trainer.policy.act(obs, env.mask()))
    other = make_trainer(RandomEnv(MIXED), policy_map={**named, "agent_2": "a"}, num_steps=8, **settings)
    with pytest.raises(ValueError, match=r"--policy-map gives the agents policies .*; those of .* are"):
        other.policy.start_from(tmp_path / "policy.pt")
    plain = make_trainer(RandomEnv(MIXED), policy_map=named, num_steps=8, activation="tanh")
    with pytest.raises(ValueError, match=r"must be that of the policy in"):
        plain.policy.start_from(tmp_path / "policy.pt")


def test_an_agent_acts_in_the_order_of_its_own_space_and_within_its_mask(make_trainer: MakeTrainer) -> None:
    """Agent 0: a choice of 3, two Box columns, a choice of 2; its mask has 5 columns."""
    policy = make_trainer(RandomEnv(MIXED), num_steps=8).policy
    agent, own = policy.for_agent("agent_0"), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    free = agent.act(own)
    assert free.shape == (50, 4)
    everywhere = torch.zeros(50, 3, 4)
    everywhere[:, 0, :2] = own
    together = policy.act(everywhere)[:, 0]  # Box columns first, then the choices
    torch.testing.assert_close(free, together[:, [2, 0, 1, 3]])
    for first, second in ((0, 1), (1, 0), (2, 1)):
        mask = torch.zeros(50, 5, dtype=torch.bool)
        mask[:, [first, 3 + second]] = True
        forced = agent.act(own, mask)
        assert (forced[:, 0] == first).all()
        assert (forced[:, 3] == second).all()
        torch.testing.assert_close(forced[:, 1:3], free[:, 1:3])
    with pytest.raises(ValueError, match=r"act: the action mask of agent_0 has 5 columns; got 9"):
        agent.act(own, torch.ones(50, 9, dtype=torch.bool))
    assert policy.for_agent("agent_2").act(torch.ones(4), torch.ones(0, dtype=torch.bool)).shape == (1,)


def test_sampled_choices_follow_the_mask_of_the_step(make_trainer: MakeTrainer) -> None:
    env = RandomEnv(MIXED, num_envs=50, mortal=False)
    policy = make_trainer(env, num_steps=8).policy
    obs, _ = env.reset()
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):  # the env checks what it gets
        obs = env.step(policy.act(obs, env.mask(), deterministic=False, generator=rng)).obs
    assert env.choices_made == 5 * 50 * 4


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
