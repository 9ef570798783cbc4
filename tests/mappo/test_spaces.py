"""Spaces -> specs, masks, policy ids; messages of the boundary checks."""

import pytest
import torch
from gymnasium import spaces

from mappo.spaces import EnvSpec, check_reset, check_step
from tests.toy_envs import TargetEnv


def test_agents_of_different_widths_are_padded_and_masked() -> None:
    spec = EnvSpec.of(TargetEnv(2, (1, 3), obs_padding=(0, 2)))
    assert spec.obs_widths == (4, 6)
    assert spec.obs_valid.sum(-1).tolist() == [4, 6]
    assert spec.action_spec.columns == 3
    assert spec.action_spec.valid.tolist() == [[True, False, False], [True, True, True]]
    assert spec.action_spec.mask_columns == 0


def test_policy_ids_follow_the_sharing() -> None:
    spec = EnvSpec.of(TargetEnv(2, (2, 1, 2)))
    assert spec.policy_ids("shared") == (0, 0, 0)
    assert spec.policy_ids("independent") == (0, 1, 2)
    assert spec.policy_ids("grouped") == (0, 1, 0)


def test_a_spec_survives_a_checkpoint() -> None:
    spec = EnvSpec.of(TargetEnv(2, (2, 1)))
    assert EnvSpec.from_dict(spec.to_dict()) == spec
    assert spec.differences(spec) == []


def test_differences_name_what_changed() -> None:
    one, other = TargetEnv(2, (1, 1)), TargetEnv(2, (1, 1, 2))
    text = "\n".join(EnvSpec.of(one).differences(EnvSpec.of(other)))
    assert "agents: ['agent_0', 'agent_1'] -> ['agent_0', 'agent_1', 'agent_2']" in text
    assert "obs_widths: [2, 2] -> [3, 3, 3]" in text
    assert "state_dim: 3 -> 7" in text
    assert "action_heads: [['box(1)'], ['box(1)']] -> [['box(1)'], ['box(1)'], ['box(2)']]" in text


def test_what_is_no_vec_env_is_told_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"object lacks num_envs, device, agents"):
        EnvSpec.of(object())  # pyright: ignore[reportArgumentType]


def test_unsupported_spaces_are_named() -> None:
    env = TargetEnv(2)
    env.action_spaces["agent_1"] = spaces.Discrete(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"action space of agent_1 must be a Box; got Discrete\(3\)"):
        EnvSpec.of(env)
    env = TargetEnv(2)
    env.observation_spaces["agent_0"] = spaces.Box(0, 1, (8, 8))
    with pytest.raises(ValueError, match=r"observation space of agent_0 must be a Box with one dimension"):
        EnvSpec.of(env)


def test_wrong_shapes_name_the_tensor() -> None:
    env = TargetEnv(2)
    spec = EnvSpec.of(env)
    obs, state = env.reset()
    with pytest.raises(ValueError, match=r"reset: obs must be \(2, 3, 2\); got \(2, 3, 1\)"):
        check_reset(obs[..., :1], state, env, spec)
    step = env.step(torch.zeros(2, 3, 1))
    check_step(step, env, spec)
    with pytest.raises(ValueError, match=r"step: terminated must be \(2, 3\); got \(2,\)"):
        check_step(step._replace(terminated=step.terminated[:, 0]), env, spec)
    with pytest.raises(ValueError, match=r"step: alive must be bool; got torch.float32"):
        check_step(step._replace(alive=step.alive.float()), env, spec)
    with pytest.raises(ValueError, match=r"metrics\['cost'\] must be \(2,\)"):
        check_step(step._replace(metrics={"cost": torch.zeros(3)}), env, spec)


def test_wrong_names_are_refused() -> None:
    env = TargetEnv(2)
    env.obs_names = ["only one"]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"env.obs_names must name 2 columns; got 1"):
        EnvSpec.of(env)
