"""`make_baseline`: names, options, the missing extra, and that nothing is imported before it is needed."""

import subprocess
import sys

import pytest
import torch

import envs
import envs.baselines
from envs.baselines import BASELINES, make_baseline

WITHOUT_SOLVER = ("idle", "rule", "greedy", "random")


def test_the_documented_baselines_are_there() -> None:
    assert {"idle", "rule", "greedy", "selfish", "mpc", "random"} <= set(BASELINES)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "mpc"])
@pytest.mark.parametrize("curtailment", [False, True])
def test_a_baseline_acts_like_a_policy(name: str, curtailment: bool) -> None:
    env = envs.make(num_envs=3, curtailment=curtailment)
    obs, _ = env.reset()
    baseline = make_baseline(name, env)
    for _ in range(2):
        actions = baseline.act(obs, None)
        assert tuple(actions.shape) == env.action_shape
        assert actions.abs().max() <= 1.0
        obs = env.step(actions).obs


@pytest.mark.parametrize("name", ["rule", "copper-plate"])
def test_a_baseline_goes_on_past_midnight(name: str) -> None:
    env = envs.make(num_envs=2, horizon="week")
    obs, _ = env.reset()
    baseline = make_baseline(name, env)
    for _ in range(30):
        obs = env.step(baseline.act(obs)).obs
    day = env.situation().today.price
    assert env.situation().step == 6
    assert day.shape == (2, 24)


def test_an_unknown_baseline_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"baseline 'oracle' is unknown; use one of idle, rule, .*mpc"):
        make_baseline("oracle", envs.make(num_envs=1))


@pytest.mark.parametrize(
    ("name", "option", "known"),
    [
        ("greedy", "end_rules", "it has end_rule"),
        ("idle", "seed", "it has none"),
        ("selfish", "own_peak", "it has forecast"),
    ],
)
def test_an_unknown_option_is_refused_with_those_there_are(name: str, option: str, known: str) -> None:
    with pytest.raises(ValueError, match=f"baseline '{name}' has no option '{option}'; {known}"):
        make_baseline(name, envs.make(num_envs=1), **{option: 1})


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in WITHOUT_SOLVER])
def test_a_missing_solver_names_the_command_that_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"baseline '{name}' needs cvxpy.*clarabel.*; .*pip install.*\[baselines\]"):
        make_baseline(name, envs.make(num_envs=1))


def test_the_package_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = envs.baselines.nothing


def test_the_rules_work_where_cvxpy_cannot_be_imported() -> None:
    code = f"""
import sys
sys.modules["cvxpy"] = sys.modules["clarabel"] = None  # importing them raises ImportError
import envs
from envs.baselines import make_baseline
env = envs.make(num_envs=1)
obs, _ = env.reset()
for name in {WITHOUT_SOLVER}:
    assert make_baseline(name, env).act(obs).shape == env.action_shape
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_actions_follow_the_env_and_not_the_observation() -> None:
    env = envs.make(num_envs=2)
    obs, _ = env.reset()
    assert torch.equal(make_baseline("rule", env).act(obs), make_baseline("rule", env).act(torch.zeros_like(obs)))
