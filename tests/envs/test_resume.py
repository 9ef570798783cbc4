import copy
import io

import pytest
import torch

import envs
from envs.microgrid import MicrogridEnv
from mappo.vec_env import Step


def steps(env: MicrogridEnv, first: int, last: int) -> list[Step]:
    rng = [torch.Generator().manual_seed(t) for t in range(first, last)]
    return [env.step(2 * torch.rand(env.action_shape, generator=g) - 1) for g in rng]


def assert_same(one: list[Step], two: list[Step]) -> None:
    for a, b in zip(one, two, strict=True):
        for name in ("obs", "state", "final_obs", "final_state", "rewards", "terminated", "truncated"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        for name, value in a.metrics.items():
            assert torch.equal(value, b.metrics[name]), name


@pytest.mark.parametrize(("horizon", "at", "end"), [("day", 0, 30), ("day", 31, 80), ("week", 60, 200)])
def test_resuming_from_a_file_equals_not_stopping(horizon: str, at: int, end: int) -> None:
    env = envs.make(num_envs=4, seed=9, horizon=horizon)
    env.reset()
    steps(env, 0, at)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    other = envs.make(num_envs=4, seed=1, horizon=horizon)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(steps(other, at, end), steps(env, at, end))


def test_stepping_on_leaves_a_saved_state_alone() -> None:
    env = envs.make(num_envs=3, seed=9)
    env.reset()
    steps(env, 0, 5)
    saved = env.state_dict()
    expected = copy.deepcopy(saved)
    going_on = steps(env, 5, 60)
    assert torch.equal(saved["drawer"]["episode"], expected["drawer"]["episode"])
    env.load_state_dict(saved)
    assert_same(steps(env, 5, 60), going_on)


def test_the_state_of_a_version_that_kept_ratios_by_bus_goes_on() -> None:
    env = envs.make(num_envs=3, seed=9)
    env.reset()
    steps(env, 0, 5)
    saved = env.state_dict()
    assert saved["grid"]["flow"]["u"].shape == (2, 3, env.network.num_buses)
    saved["grid"]["flow"]["tau2"] = torch.ones(3, env.network.num_buses)
    other = envs.make(num_envs=3, seed=1)
    other.load_state_dict(saved)
    assert_same(steps(other, 5, 30), steps(env, 5, 30))


def test_a_copy_whose_flow_failed_goes_on_too() -> None:
    env = envs.make(num_envs=3, seed=9)
    env.reset()
    draw = env._grid.draw
    env._grid.draw = lambda load, *buses: draw(load, *buses) * torch.tensor([1.0, 1e4, 1.0])  # pyright: ignore[reportAttributeAccessIssue]
    steps(env, 0, 2)
    env._grid.draw = draw
    assert env._grid_state.converged.tolist() == [True, False, True]
    other = envs.make(num_envs=3, seed=1)
    other.load_state_dict(env.state_dict())
    assert_same(steps(other, 2, 30), steps(env, 2, 30))
