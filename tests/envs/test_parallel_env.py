import warnings

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

import envs
from envs.parallel_env import MicrogridParallelEnv

with warnings.catch_warnings():  # importing the contract tests imports PettingZoo's own deprecated games
    warnings.filterwarnings("ignore", category=DeprecationWarning, message="The old environment creation API")
    from pettingzoo.test import parallel_api_test, parallel_seed_test

Array = np.ndarray


def actions_of(env: MicrogridParallelEnv, rng: np.random.Generator) -> dict[str, Array]:
    return {agent: rng.uniform(-1, 1, 3).astype(np.float32) for agent in env.possible_agents}


def test_parallel_api_contract() -> None:
    parallel_api_test(envs.parallel_env(seed=1), num_cycles=100)


def test_parallel_seed_contract() -> None:
    parallel_seed_test(envs.parallel_env, num_cycles=60)


@pytest.mark.parametrize("horizon", ["day", "week"])
def test_one_env_equals_one_batched_copy_step_by_step(horizon: str) -> None:
    view, batched = envs.parallel_env(seed=3, horizon=horizon), envs.make(num_envs=1, seed=3, horizon=horizon)
    rng = np.random.default_rng(0)
    obs, _ = view.reset()
    expected, state = batched.reset()
    for _ in range(2):
        for _ in range(batched.episode_length):
            for i, agent in enumerate(batched.agents):
                assert np.array_equal(obs[agent], expected[0, i].numpy())
            assert np.array_equal(view.state(), state[0].numpy())
            actions = actions_of(view, rng)
            step = batched.step(torch.from_numpy(np.stack(list(actions.values())))[None])
            obs, rewards, terminated, truncated, _ = view.step(actions)
            for i, agent in enumerate(batched.agents):
                assert np.array_equal(obs[agent], step.final_obs[0, i].numpy())
                assert rewards[agent] == step.rewards[0, i].item()
                assert terminated[agent] == bool(step.terminated[0, i])
                assert truncated[agent] == bool(step.truncated[0, i])
            assert np.array_equal(view.state(), step.final_state[0].numpy())
            obs = {agent: step.obs[0, i].numpy() for i, agent in enumerate(batched.agents)} if not view.agents else obs
            expected, state = step.obs, step.state
            if not view.agents:
                obs, _ = view.reset()
    assert view.agents == list(batched.agents)


def test_shared_reward_is_the_mean() -> None:
    own, shared = envs.parallel_env(seed=2), envs.parallel_env(seed=2, share_reward=True)
    rng = np.random.default_rng(1)
    own.reset()
    shared.reset()
    for _ in range(5):
        actions = actions_of(own, rng)
        each, same = own.step(actions)[1], shared.step(actions)[1]
        assert len(set(each.values())) == 3
        assert list(same.values()) == pytest.approx([np.mean(list(each.values()))] * 3)


def test_infos_hold_requested_applied_and_clipped_powers_and_metrics() -> None:
    env = envs.parallel_env(split="val", evaluation=True)
    env.reset()
    full = {agent: np.array([1, -1, 1], np.float32) for agent in env.agents}
    info = [env.step(full)[-1] for _ in range(3)][-1]["MG2"]
    assert info["requested"]["battery_p_mw"] == pytest.approx(0.5)
    assert info["applied"]["battery_p_mw"] == pytest.approx(0.02 / 0.98, abs=1e-5)
    assert info["clipped"]["battery_p_mw"] == pytest.approx(0.5 - 0.02 / 0.98, abs=1e-5)
    assert set(info["metrics"]) == {spec.name for spec in env.unwrapped_env.metric_specs}
    assert isinstance(info["metrics"]["cost_usd"], float)


def test_spaces_hold_what_the_env_returns() -> None:
    env = envs.parallel_env()
    obs, infos = env.reset(seed=5)
    assert set(obs) == set(infos) == set(env.agents)
    for agent in env.agents:
        action_space = env.action_space(agent)
        assert isinstance(action_space, Box)
        assert (action_space.low, action_space.high) == (pytest.approx(-1), pytest.approx(1))
        assert env.observation_space(agent).contains(obs[agent])
    assert env.state_space.contains(env.state())


def test_a_finished_env_has_no_agents_until_reset() -> None:
    env = envs.parallel_env()
    env.reset()
    rng = np.random.default_rng(0)
    terminated = [env.step(actions_of(env, rng))[2] for _ in range(24)]
    assert all(terminated[-1].values())
    assert not any(flag for flags in terminated[:-1] for flag in flags.values())
    assert env.agents == []
    with pytest.raises(ValueError, match=r"the episode is over: call reset\(\)"):
        env.step(actions_of(env, rng))
    env.reset()
    assert env.agents == env.possible_agents


def test_wrong_actions_are_named() -> None:
    env = envs.parallel_env()
    env.reset()
    good = actions_of(env, np.random.default_rng(0))
    missing = {agent: good[agent] for agent in ("MG1", "MG3")}
    with pytest.raises(ValueError, match=r"exactly \['MG1', 'MG2', 'MG3'\], got \['MG1', 'MG3'\]"):
        env.step(missing)
    with pytest.raises(ValueError, match="actions must be given for exactly"):
        env.step(good | {"MG9": good["MG1"]})
    with pytest.raises(ValueError, match="must be finite, got nan for battery_p of MG2"):
        env.step(good | {"MG2": np.array([np.nan, 0, 0])})
    with pytest.raises(ValueError, match=r"must have shape \((1, 3, )?3"):
        env.step({agent: np.zeros(2, np.float32) for agent in good})


def test_one_agents_wrong_shape_is_named() -> None:
    env = envs.parallel_env()
    env.reset()
    good = actions_of(env, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"MG2.*\(3,\).*\(2,\)"):
        env.step(good | {"MG2": np.zeros(2, np.float32)})


def test_a_view_is_one_copy() -> None:
    with pytest.raises(ValueError, match="num_envs does not exist for a PettingZoo env"):
        envs.parallel_env(num_envs=4)
    with pytest.raises(ValueError, match="needs num_envs=1, got 2"):
        MicrogridParallelEnv(envs.make(num_envs=2))
