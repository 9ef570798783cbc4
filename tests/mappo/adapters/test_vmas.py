import io
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mappo.adapters import VmasVecEnv
from mappo.adapters.vmas import vmas_env_from
from mappo.spaces import EnvSpec, check_reset, check_step
from mappo.vec_env import Step, VecEnv

vmas = pytest.importorskip("vmas", reason="the extra vmas")
from tests.mappo.adapters.mixed_scenario import Mixed  # noqa: E402 - it imports vmas


def random_actions(env: VmasVecEnv, steps: int) -> Tensor:
    """(steps, B, A, U), a little beyond the bounds."""
    shape = (steps, env.num_envs, len(env.agents), EnvSpec.of(env).action_spec.columns)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2


def check_against_plain(
    env: VmasVecEnv, plain: Any, actions: Tensor, own_actions: list[list[Tensor]]
) -> tuple[int, int]:
    """Step both and reset plain VMAS by hand; returns how many copies terminated, and were truncated."""
    counts = torch.zeros(2)
    obs, _ = env.reset()
    assert torch.equal(obs, torch.stack(plain.reset(seed=3), dim=1))
    for action, own in zip(actions, own_actions, strict=True):
        step = env.step(action)
        plain_obs, rewards, terminated, truncated, _ = plain.step(own)
        assert torch.equal(step.final_obs, torch.stack(plain_obs, dim=1))
        assert torch.equal(step.rewards, torch.stack(rewards, dim=1))
        assert torch.equal(step.terminated, terminated.unsqueeze(-1).expand_as(step.terminated))
        assert torch.equal(step.truncated, (truncated & ~terminated).unsqueeze(-1).expand_as(step.truncated))
        counts += torch.stack([step.terminated[:, 0].sum(), step.truncated[:, 0].sum()])
        ended = terminated | truncated
        if ended.all():
            plain_obs = plain.reset()
        else:
            for copy in ended.nonzero().flatten().tolist():
                plain_obs = plain.reset_at(copy)
        assert torch.equal(step.obs, torch.stack(plain_obs, dim=1))
        assert torch.equal(step.state, step.obs.flatten(1))
        assert torch.equal(step.final_state, step.final_obs.flatten(1))
    return int(counts[0]), int(counts[1])


@pytest.mark.parametrize(
    ("task", "kwargs"),
    [("balance", {"n_agents": 4}), ("navigation", {"n_agents": 3}), ("buzz_wire", {})],
)
def test_stepping_equals_plain_vmas_with_the_same_seed(task: str, kwargs: dict[str, Any]) -> None:
    env = VmasVecEnv(task, 6, seed=3, max_steps=12, **kwargs)
    plain = vmas.make_env(task, 6, max_steps=12, terminated_truncated=True, **kwargs)
    actions = random_actions(env, 30)
    own = [list(action.clamp(-1, 1).unbind(1)) for action in actions]
    terminated, truncated = check_against_plain(env, plain, actions, own)
    assert truncated > 0
    assert (terminated > 0) == (task == "buzz_wire")


@pytest.mark.parametrize("multi", [False, True])
def test_discrete_actions_equal_plain_vmas(multi: bool) -> None:
    kwargs: dict[str, Any] = {"continuous_actions": False, "multidiscrete_actions": multi}
    env = VmasVecEnv("simple_reference", 5, seed=3, max_steps=4, **kwargs)
    plain = vmas.make_env("simple_reference", 5, max_steps=4, terminated_truncated=True, **kwargs)
    spec = EnvSpec.of(env).action_spec
    assert spec.choices == ((3, 3, 10) if multi else (90,))
    generator = torch.Generator().manual_seed(0)
    actions = (torch.rand(9, 5, 2, len(spec.choices), generator=generator) * torch.tensor(spec.choices)).floor()
    check_against_plain(env, plain, actions, [list(action.unbind(1)) for action in actions])
    assert env.step(actions[0]).action_mask.all()


def test_it_is_a_vec_env_whose_shapes_fit_its_spaces() -> None:
    env = VmasVecEnv(Mixed(0, 0), 2)
    spec = EnvSpec.of(env)
    obs, state = env.reset()
    check_reset(obs, state, env, spec)
    check_step(env.step(torch.zeros(2, 2, 4)), env, spec)
    assert isinstance(env, VecEnv)
    env.close()


def test_the_horizon_truncates_and_the_observation_before_the_reset_is_kept() -> None:
    env = VmasVecEnv("navigation", 4, max_steps=5, n_agents=2)
    env.reset()
    actions = random_actions(env, 10)
    steps = [env.step(action) for action in actions]
    for number, step in enumerate(steps, start=1):
        at_horizon = number in (5, 10)
        assert bool(step.truncated.all()) == bool(step.truncated.any()) == at_horizon
        assert not step.terminated.any()
        assert torch.equal(step.obs, step.final_obs) != at_horizon
    assert steps[0].alive.all()


def test_without_a_horizon_nothing_is_truncated() -> None:
    env = VmasVecEnv(Mixed(0), 1, max_steps=None)
    env.reset()
    assert not any(env.step(torch.zeros(1, 2, 4)).truncated.any() for _ in range(150))


def ages(obs: Tensor) -> list[float]:
    """How many steps old the episode of each copy is."""
    return obs[:, 1, 2].tolist()


def test_a_done_scenario_terminates_and_only_its_copy_begins_anew() -> None:
    env = VmasVecEnv(Mixed(3, 0, 0), 3, max_steps=5)
    env.reset()
    seen: list[Step] = [env.step(torch.zeros(3, 2, 4)) for _ in range(6)]
    third = seen[2]
    assert third.terminated.tolist() == [[True] * 2, [False] * 2, [False] * 2]
    assert not third.truncated.any()
    assert (ages(third.final_obs), ages(third.obs)) == ([3, 3, 3], [0, 3, 3])
    assert torch.equal(third.obs[1:], third.final_obs[1:])
    assert not torch.equal(third.obs[0, :, :2], third.final_obs[0, :, :2])
    assert seen[4].truncated[:, 0].tolist() == [False, True, True]
    assert ages(seen[4].obs) == [2, 0, 0]
    assert seen[5].terminated[:, 0].tolist() == [True, False, False]


def test_done_at_the_horizon_is_terminal_and_no_time_limit() -> None:
    env = VmasVecEnv(Mixed(2, 0), 2, max_steps=2)
    env.reset()
    env.step(torch.zeros(2, 2, 4))
    step = env.step(torch.zeros(2, 2, 4))
    assert step.terminated[:, 0].tolist() == [True, False]
    assert step.truncated[:, 0].tolist() == [False, True]
    assert ages(step.obs) == [0, 0]


def test_agents_of_different_widths_are_padded_and_nested_observations_flattened() -> None:
    env = VmasVecEnv(Mixed(0, 0), 2)
    assert [space.shape for space in env.observation_spaces.values()] == [(5,), (3,)]
    assert [space.shape for space in env.action_spaces.values()] == [(2,), (4,)]
    obs, state = env.reset()
    assert (obs.shape, state.shape, env.state_dim) == ((2, 2, 5), (2, 10), 10)
    assert torch.equal(obs[:, 0, 3:], 2 * obs[:, 0, :2])  # pos, age, twice
    assert not obs[:, 1, 3:].any()
    assert torch.equal(state, obs.flatten(1))
    step = env.step(torch.zeros(2, 2, 4))
    assert step.rewards.tolist() == [[2, 1], [2, 1]]


def test_actions_are_clipped_and_scaled_to_the_range_of_each_agent() -> None:
    env = VmasVecEnv(Mixed(0), 1)
    env.reset()
    scout, base = env._env.agents
    env.step(torch.tensor([[[1.0, -3.0, 9.0, 9.0], [0.5, 1.0, 0.0, 7.0]]]))
    assert scout.action.u.tolist() == [[0.5, -0.5]]
    assert base.action.u.tolist() == [[0.5, 2.0]]
    assert base.action.c.tolist() == [[0.5, 1.0]]


def test_info_becomes_metrics_averaged_over_the_agents_that_report_it() -> None:
    env = VmasVecEnv(Mixed(0, 0), 2)
    env.reset()
    step = env.step(torch.zeros(2, 2, 4))
    assert {spec.name: spec.reduce for spec in env.metric_specs} == {"age_rew": "sum", "x": "mean", "is_old": "mean"}
    assert set(step.metrics) == {"age_rew", "x", "is_old"}
    torch.testing.assert_close(step.metrics["x"], step.obs[:, :, 0].mean(1))
    assert step.metrics["age_rew"].tolist() == [1, 1]
    assert env.step(torch.zeros(2, 2, 4)).metrics["is_old"].tolist() == [1, 1]


def global_numbers() -> list[Any]:
    """The next numbers of the global generators, which stay where they are."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    numbers = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]  # noqa: NPY002
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
    return numbers


def test_the_global_generators_are_left_alone() -> None:
    before = global_numbers()
    env = VmasVecEnv("dropout", 3, max_steps=2, n_agents=2)
    env.reset()
    for action in random_actions(env, 5):
        env.step(action)
    env.load_state_dict(env.state_dict())
    assert global_numbers() == before


def test_the_global_generators_are_left_alone_where_vmas_raises() -> None:
    before = global_numbers()
    env = VmasVecEnv("balance", 2)
    env.reset()
    with pytest.raises(AssertionError):
        env.step(torch.full((2, 3, 2), torch.nan))
    with pytest.raises(ValueError, match="refused"):
        VmasVecEnv("balance", 2, n_agents=1)
    assert global_numbers() == before


def trace(env: VmasVecEnv, steps: int = 7) -> Tensor:
    """Observations after a reset."""
    obs = [env.reset()[0]] + [env.step(action).obs for action in random_actions(env, steps)]
    return torch.stack(obs)


def test_each_env_has_a_random_stream_of_its_own_and_reset_begins_with_the_same_episodes() -> None:
    alone = trace(VmasVecEnv("navigation", 3, seed=1, max_steps=3))
    env, other = VmasVecEnv("navigation", 3, seed=1, max_steps=3), VmasVecEnv("navigation", 3, seed=2, max_steps=3)
    obs = [env.reset()[0]]
    for action in random_actions(env, 7):
        other.reset()
        obs.append(env.step(action).obs)
    assert torch.equal(torch.stack(obs), alone)
    assert torch.equal(trace(env), alone)
    assert not torch.equal(trace(other), alone)
    assert not torch.equal(alone[0], alone[3])  # the next episode is another one


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_state_saved_between_episodes_is_restored_exactly() -> None:
    env = VmasVecEnv("balance", 3, seed=1, max_steps=4)
    env.reset()
    actions = random_actions(env, 12)
    for action in actions[:4]:
        env.step(action)
    state = through_a_file(env.state_dict())
    expected = [env.step(action) for action in actions[4:]]
    resumed = VmasVecEnv("balance", 3, seed=5, max_steps=4)
    assert resumed.load_state_dict(state) is True
    for action, step in zip(actions[4:], expected, strict=True):
        again = resumed.step(action)
        assert torch.equal(again.obs, step.obs)
        assert torch.equal(again.rewards, step.rewards)


def test_a_state_saved_amid_episodes_cannot_be_restored_and_new_episodes_follow() -> None:
    env = VmasVecEnv("balance", 3, seed=1, max_steps=4)
    first, _ = env.reset()
    env.step(random_actions(env, 1)[0])
    state = through_a_file(env.state_dict())
    resumed, again = (VmasVecEnv("balance", 3, seed=1, max_steps=4) for _ in range(2))
    assert resumed.load_state_dict(state) is False
    assert again.load_state_dict(state) is False
    assert torch.equal(resumed.reset()[0], again.reset()[0])
    assert not torch.equal(resumed.reset()[0], first)


def test_spec_holds_the_text_that_makes_the_same_env() -> None:
    env = vmas_env_from("vmas:navigation:n_agents=2,max_steps=7,collisions=False", 3, seed=4)
    assert env.spec == {"env": "vmas:navigation:max_steps=7,n_agents=2,collisions=False", "num_envs": 3, "seed": 4}
    again = vmas_env_from(env.spec["env"], env.spec["num_envs"], seed=env.spec["seed"])
    assert torch.equal(trace(env, 9), trace(again, 9))
    assert VmasVecEnv("balance", 2).spec["env"] == "vmas:balance"


@pytest.mark.parametrize(
    ("text", "num_envs", "reason"),
    [
        ("vmas:balanc", 2, "vmas:balanc is unknown; the tasks are balance, ball_passage"),
        ("vmas:balance", 0, "--num-envs must be at least 1; got 0"),
        ("vmas:balance:agents=3", 2, r"vmas:balance:agents=3 was refused by VMAS: Scenario kwargs: {'agents': 3}"),
        ("vmas:balance:n_agents=1", 2, "vmas:balance:n_agents=1 was refused by VMAS: an assertion"),
        ("vmas:balance:max_steps=0", 2, "max_steps must be a whole number from 1, or None; got 0"),
        ("vmas:balance:max_steps=soon", 2, "max_steps must be a whole number from 1, or None; got 'soon'"),
        ("vmas:balance:num_envs=3", 2, "num_envs is not an argument of the env; use --num-envs 3"),
        ("vmas:balance:dict_spaces=True", 2, "dict_spaces is set by the adapter"),
    ],
)
def test_what_vmas_cannot_make_is_refused_with_the_reason(text: str, num_envs: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        vmas_env_from(text, num_envs)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="--device nowhere does not exist here"):
        VmasVecEnv("balance", device="nowhere")


def test_without_vmas_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmas", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[vmas\]"'):
        VmasVecEnv("balance")


def test_actions_of_a_wrong_shape_are_refused() -> None:
    env = VmasVecEnv("balance", 2, n_agents=3)
    env.reset()
    with pytest.raises(ValueError, match=r"actions must be \(2, 3, 2\); got \(2, 2, 2\)"):
        env.step(torch.zeros(2, 2, 2))


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("observation", float("inf"), "observation entry 0 of scout is inf in copy 1"),
        ("reward", float("nan"), "reward of scout is nan in copy 0"),
    ],
)
def test_values_that_are_not_finite_are_named(part: str, value: float, reason: str) -> None:
    scenario = Mixed(0, 0)
    env = VmasVecEnv(scenario, 2)
    env.reset()
    scenario.broken = (part, value)
    with pytest.raises(ValueError, match=f"vmas:Mixed: {reason}"):
        env.step(torch.zeros(2, 2, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_steps_stay_there_and_its_generator_is_left_alone() -> None:
    before = torch.cuda.get_rng_state()
    env = VmasVecEnv("navigation", 3, device="cuda", max_steps=3)
    first = trace_on_gpu(env)
    assert torch.equal(trace_on_gpu(env), first)
    assert first.is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert env.load_state_dict(through_a_file(env.state_dict())) is False


def trace_on_gpu(env: VmasVecEnv) -> Tensor:
    return torch.stack([env.reset()[0]] + [env.step(action.cuda()).obs for action in random_actions(env, 7)])
