"""evaluate.py and plot.py on runs of PettingZoo and VMAS environments, in this process."""

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mappo.adapters.pettingzoo import PettingZooVecEnv
from tests.integration.conftest import BALANCE, SPREAD, printed
from tests.toy_parallel import ToyParallelEnv


def report(*arguments: str) -> dict[str, Any]:
    return json.loads(printed("evaluate", *arguments, "--json"))


def test_evaluation_says_sum_and_mean_beside_random_and_idle(
    env_runs: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    folder, arguments = env_runs["spread_s1"][0], ("--episodes", "6", "--out", str(tmp_path))
    result = report(str(folder), *arguments)
    assert (result["env"], result["episodes"], result["agents"]) == (SPREAD, 6, ["agent_0", "agent_1"])
    assert set(result["policies"]) == {"spread_s1", "random", "idle"}
    for policy in result["policies"].values():
        summed, mean = policy["return_summed_over_agents"], policy["return_mean_of_agents"]
        assert summed["value"] == pytest.approx(2 * mean["value"])
        assert summed["value"] == pytest.approx(sum(one["value"] for one in policy["return_of_agent"].values()))
        assert summed["low"] < summed["value"] < summed["high"]
        assert policy["episode_length"] == 10
    with (tmp_path / "episodes.csv").open(newline="") as file:
        rows = [float(row["return_summed_over_agents"]) for row in csv.DictReader(file) if row["policy"] == "idle"]
    idle = torch.tensor(rows, dtype=torch.float64)
    found = result["policies"]["idle"]["return_summed_over_agents"]
    assert found["value"] == pytest.approx(float(idle.mean()), rel=1e-6)
    assert found["standard_error"] == pytest.approx(float(idle.std()) / 6**0.5, rel=1e-6)
    assert (found["high"] - found["value"]) / found["standard_error"] == pytest.approx(2.5706, rel=1e-4)  # t, 5 degrees
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "episodes.csv", "summary.csv"}
    assert result["policies"] == report(str(folder), *arguments)["policies"], "the same seed plays the same episodes"
    other = report(str(folder), *arguments, "--seed", "1")["policies"]["idle"]["return_summed_over_agents"]["value"]
    assert other != found["value"]
    text = printed("evaluate", str(folder), *arguments)
    for words in ("6 held-out episodes", "sum of the 2 agents", "mean of the agents", "standard error", "agent_1"):
        assert words in text


def test_episodes_are_the_same_however_they_are_cut_into_batches(
    env_runs: dict[str, tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = importlib.import_module("environments").FAMILIES["pettingzoo"]
    arguments = (str(env_runs["spread_s1"][0]), "--episodes", "5", "--baselines", "none", "--out", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(type(family), "chunk", 2)
        report(*arguments)
    with (tmp_path / "episodes.csv").open(newline="") as file:
        returns = [row["return_summed_over_agents"] for row in csv.DictReader(file)]
    assert len(set(returns)) == 5, "every batch plays episodes of its own"


def test_episodes_are_the_same_with_workers_that_do_not_divide_them(
    env_runs: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    arguments = (str(env_runs["spread_s1"][0]), "--episodes", "5", "--baselines", "idle", "--out", str(tmp_path))
    alone, workers = report(*arguments), report(*arguments, "--workers", "2")
    assert workers["policies"]["idle"] == alone["policies"]["idle"]
    assert len((tmp_path / "episodes.csv").read_text().splitlines()) == 1 + 2 * 5


def test_the_random_policy_follows_the_seed(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del script
    episodes, seeds = importlib.import_module("evaluation.episodes"), []
    monkeypatch.setattr(episodes, "Random", lambda env, seed: seeds.append(seed) or object())
    for seed in (0, 1):
        plan = episodes.Plan(episodes=1, seed=seed)
        episodes._policies([], None, ["random"], episodes.random_seed(plan, 0))
        episodes._policies([], None, ["random"], episodes.random_seed(plan, 1))
    assert len(set(seeds)) == 4, "each batch of each seed draws actions of its own"


def test_seeds_of_one_configuration_are_summarised(env_runs: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    folders = [str(env_runs[name][0]) for name in ("spread_s1", "spread_s2")]
    result = report(*folders, "--episodes", "2", "--baselines", "none", "--out", str(tmp_path))
    ((name, group),) = result["groups"].items()
    assert (name, group["across"]) == ("spread, 2 seeds", "mean and range")
    values = [result["policies"][run]["return_summed_over_agents"]["value"] for run in group["runs"]]
    found = group["return_summed_over_agents"]
    assert (found["low"], found["high"]) == (min(values), max(values))
    assert found["value"] == pytest.approx(sum(values) / 2)


def test_vmas_is_evaluated_in_one_batch(env_runs: dict[str, tuple[Path, str]]) -> None:
    folder = env_runs["balance"][0]
    result = report(str(folder), "--episodes", "3")
    assert (result["env"], set(result["policies"])) == (BALANCE, {"balance", "random", "idle"})
    assert (folder / "evaluation-3-episodes" / "evaluation.json").is_file()


BAD_EVALUATIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "two envs": (("{spread_s1}", "{balance}"), f"balance was trained on {BALANCE}, spread_s1 on {SPREAD}"),
    "days": (("{spread_s1}", "--days", "2"), f"--days is not for runs on --env {SPREAD}, which have --episodes"),
    "split": (("{balance}", "--split=val"), "--split is not for runs on --env"),
    "no episodes": (("{balance}", "--episodes", "0"), "--episodes must be at least 1; got 0"),
    "seed": (("{balance}", "--seed", "-1"), "--seed must be from 0 to"),
    "workers": (("{balance}", "--workers", "2"), f"--workers is not for --env {BALANCE}"),
    "baseline": (("{balance}", "--baselines", "rule"), "--baselines must be none or some of random, idle; got 'rule'"),
    "endless": (("{balance}", "--episodes", "1", "--eval-max-steps", "3"), "--eval-max-steps 3"),
}


@pytest.mark.parametrize("case", BAD_EVALUATIONS)
def test_a_bad_evaluation_says_what_is_wrong_and_writes_nothing(
    case: str, env_runs: dict[str, tuple[Path, str]]
) -> None:
    flags, message = BAD_EVALUATIONS[case]
    folders = {name: folder for name, (folder, _) in env_runs.items()}
    before = sorted(folders["balance"].rglob("*"))
    with pytest.raises(ValueError, match=r".") as caught:
        printed("evaluate", *(str(folders.get(flag.strip("{}"), flag)) for flag in flags))
    assert message in str(caught.value)
    assert sorted(folders["balance"].rglob("*")) == before


def test_episode_flags_are_not_for_the_microgrid(script: Any, runs: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="--episodes is not for runs on --env microgrid, which have --split, --days"):
        script.main([str(runs["tiny_s1"]), "--episodes", "3"])


def test_plot_draws_the_returns_of_any_run(env_runs: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    folders = [folder for folder, _ in env_runs.values()]
    plot = importlib.import_module("plot")
    titles = {panel.title: panel.column for panel in plot.panels(tuple(folders))}
    assert titles["return of held-out episodes, mean of the agents"] == "eval/return"
    printed("plot", *map(str, folders), "--out", str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_plot_draws_one_column_in_a_panel_for_each_environment(
    env_runs: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    folders = [folder for folder, _ in env_runs.values()]
    plot = importlib.import_module("plot")
    panels = plot.panels_by_env({folder: plot.read_metrics(folder) for folder in folders}, "eval/return")
    assert [panel.title.split("\n")[0] for panel in panels] == [SPREAD, BALANCE]
    printed("plot", *map(str, folders), "--column", "eval/return", "--out", str(tmp_path / "tasks.png"))
    assert (tmp_path / "tasks.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"--column must be one of agent_steps, .*; got 'return'"):
        printed("plot", *map(str, folders), "--column", "return")


def test_a_random_policy_keeps_to_what_is_allowed(script: Any) -> None:
    del script
    policies = importlib.import_module("environments.policies")
    env = PettingZooVecEnv(ToyParallelEnv, 200)
    obs, _ = env.reset()
    mask = torch.tensor([True, False, True, False]).expand(200, 2, 4)
    actions = policies.Random(env, 0).act(obs, mask)
    assert actions.shape == (200, 2, 1)
    counts = torch.bincount(actions.flatten().long(), minlength=4).tolist()
    assert counts[1] == counts[3] == 0
    assert 160 < counts[0] < 240
    assert torch.equal(policies.Constant(env, 3).act(obs), torch.full((200, 2, 1), 3.0))
    env.close()
