"""Parts of `scripts/`: whose bounds a training is scored by, what a resume keeps, and which runs are seeds of one."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import envs
import envs.baselines
from envs.reference import DayReference
from tests.integration.test_evaluate import NEEDS_SOLVER


def other_env(**settings: Any) -> envs.MicrogridEnv:
    """Two validation days of a scenario whose bounds are not shipped."""
    return envs.make(split="val", num_envs=2, evaluation=True, **{"settlement": "individual", **settings})


def made_up_reference(*bounds_usd: float) -> Callable[[envs.MicrogridEnv], DayReference]:
    """`day_reference` without a solver: these bounds, and 100 $ more for doing nothing."""

    def reference(env: envs.MicrogridEnv) -> DayReference:
        bound_usd = torch.full((int(env.day.max()) + 1,), math.nan, dtype=torch.float64)
        bound_usd[env.day] = torch.tensor(bounds_usd, dtype=torch.float64)
        return DayReference(bound_usd + 100, bound_usd)

    return reference


def completed(env: envs.MicrogridEnv) -> str:
    """What the training prints while it completes the reference."""
    printed: list[str] = []
    importlib.import_module("environments.microgrid").complete_reference(env, printed.append)
    return "\n".join([*printed, ""])


@NEEDS_SOLVER
def test_training_is_scored_by_bounds_solved_for_its_scenario(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del script  # puts its folder on the path
    monkeypatch.setitem(vars(envs.baselines), "day_reference", made_up_reference(10.0, 20.0))
    env = other_env()
    assert "its 2 validation days are solved once and kept" in completed(env)
    totals = {"cost_usd": torch.tensor([10.0, 120.0]), "penalty_usd": torch.zeros(2)}
    assert env.episode_score(totals)["score"] == pytest.approx(0.5)


@NEEDS_SOLVER
def test_training_names_the_days_without_a_bound(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del script
    monkeypatch.setitem(vars(envs.baselines), "day_reference", made_up_reference(10.0, math.nan))
    env = other_env()
    assert "no bound, so not part of the score, which is -J without any: 2016-01-23\n" in completed(env)
    assert env.reference is not None
    monkeypatch.setitem(vars(envs.baselines), "day_reference", made_up_reference(math.nan, math.nan))
    env = other_env()
    assert "2016-01-22, 2016-01-23" in completed(env)
    assert env.episode_score({"cost_usd": torch.ones(2), "penalty_usd": torch.zeros(2)})["score"] == -1.0


@NEEDS_SOLVER
def test_a_network_that_no_bound_covers_has_a_cost_but_no_score(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del script

    def refuse(*_: object) -> None:  # as for own tables with a load at a source below 0.8 pu
        raise ValueError("a bound needs feeder.slack_v_pu of at least 0.8")

    for module in ("tree", "mpc"):
        monkeypatch.setattr(importlib.import_module(f"envs.baselines.{module}"), "check_network", refuse)
    env = other_env()
    assert "the score is -J: a bound needs feeder.slack_v_pu of at least 0.8" in completed(env)
    assert env.reference is None
    found = importlib.import_module("evaluation.reference").find_reference(env, torch.ones(2), split="val", workers=1)
    assert found[0] is None
    assert "no score: a bound needs feeder.slack_v_pu" in found[1][0]
    with pytest.raises(ValueError, match=r"a bound needs feeder\.slack_v_pu"):
        envs.baselines.make_baseline("mpc", env)


def test_a_trial_run_solves_no_bounds(script: Any) -> None:
    del script
    notes: list[str] = []
    importlib.import_module("environments.microgrid").complete_reference(env := other_env(), notes.append, solve=False)
    assert notes == ["the score is -J: no bounds are shipped for this scenario, and --test does not solve them"]
    assert env.reference is None


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_training_says_how_to_get_a_score(script: Any) -> None:
    del script
    assert "the score is -J: no bounds are shipped for this scenario" in completed(env := other_env())
    assert env.reference is None
    with pytest.raises(ValueError, match=r"the reference needs .*pip install"):
        importlib.import_module("reference").main([])


def test_only_a_shipped_reference_is_made_anew_in_place(script: Any) -> None:
    del script
    with pytest.raises(ValueError, match=r"--scenario must be ieee34_ieee13 as shipped, or go with .*; got mine\.yaml"):
        importlib.import_module("reference").main(["--scenario", "mine.yaml"])


def test_a_run_without_groups_is_resumed_without(script: Any, runs: dict[str, Path]) -> None:
    del script
    train, cli = importlib.import_module("train"), importlib.import_module("cli")
    checkpoint = cli.read_checkpoint(str(runs["tiny_s1"]))
    assert "group_size" not in cli.env_keywords(checkpoint)  # made in Python, or before there were groups
    assert train._defaults([], checkpoint).microgrid.group_size == 1
    assert train._defaults([], None).microgrid.group_size is None


def test_plot_summarises_seeds_and_nothing_else(script: Any, runs: dict[str, Path]) -> None:
    del script
    seeds_of_configurations = importlib.import_module("plot").seeds_of_configurations
    found = seeds_of_configurations([runs[name] for name in ("tiny_s1", "wide", "tiny_s2", "other")])
    members = {name: [run.name for run in members] for name, members in found.items()}
    assert members == {"tiny, 2 seeds": ["tiny_s1", "tiny_s2"], "wide": ["wide"], "other": ["other"]}
