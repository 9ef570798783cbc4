"""The scripts on environments other than the microgrid: PettingZoo and VMAS. Runs are tiny, most in this process."""

import contextlib
import csv
import importlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mappo import PRESETS, load_policy
from mappo.adapters.pettingzoo import PettingZooVecEnv
from mappo.parts import env_name
from mappo.run_folder import RunFolder
from tests.toy_parallel import ToyParallelEnv

ROOT = Path(__file__).parents[2]
SPREAD = "pettingzoo:mpe2.simple_spread_v3:N=2,max_cycles=10"
BALANCE = "vmas:balance:max_steps=10"
SMALL = ("--num-steps", "10", "--hidden-dim", "8", "--eval-episodes", "2", "--no-tensorboard")


@pytest.fixture(scope="module", autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Training puts a handler of its own in place, which belongs to its trainer."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def printed(name: str, *flags: str) -> str:
    """What a script prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        importlib.import_module(name).main(flags)
    return output.getvalue()


@pytest.fixture(scope="module")
def trained(script: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Two seeds on a PettingZoo env and one run on VMAS, each `--test`: folder and what was printed."""
    del script  # puts its folder on the path
    folder = tmp_path_factory.mktemp("runs")
    wanted = {"spread_s1": (SPREAD, "1"), "spread_s2": (SPREAD, "2"), "balance": (BALANCE, "1")}
    runs = {}
    for name, (env, seed) in wanted.items():
        place = ("--runs-dir", str(folder), "--experiment-name", name)
        output = printed("train", "--env", env, "--test", "--seed", seed, *SMALL, *place)
        runs[name] = (folder / name, output)
    return runs


def heading_and_rows(output: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(" | ")] for line in output.splitlines() if " | " in line]


@pytest.mark.parametrize(("name", "env", "agents"), [("spread_s1", SPREAD, 2), ("balance", BALANCE, 3)])
def test_test_mode_says_what_reward_means_and_shows_a_row_an_iteration(
    name: str, env: str, agents: int, trained: dict[str, tuple[Path, str]]
) -> None:
    folder, output = trained[name]
    assert f"MAPPO on {env}" in output
    assert f"summed over the steps of an episode, mean of the {agents} agents" in output
    heading, *rows = heading_and_rows(output)
    assert heading == ["Iter", "Reward", "Length", "Episodes", "Env steps", "Steps/s", "Time"]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[4] for row in rows] == ["40", "80", "120"]
    for words in ("evaluation at iteration 3: return", "best evaluation: return", "resume:", "evaluate:", "plot:"):
        assert words in output
    content = json.loads((folder / "config.json").read_text())
    assert content["env"]["env"] == env
    assert (content["config"]["num_envs"], content["env"]["num_envs"]) == (4, 4)


@pytest.mark.parametrize("env", [SPREAD, BALANCE])
def test_a_run_whose_rollouts_end_with_its_episodes_resumes_bit_for_bit(env: str, trained: Any, tmp_path: Path) -> None:
    del trained  # the scripts are on the path
    flags = ("--env", env, "--iterations", "2", "--num-envs", "2", *SMALL, "--quiet", "--runs-dir", str(tmp_path))
    printed("train", *flags, "--experiment-name", "straight")
    printed("train", *flags, "--experiment-name", "halved", "--stop-after", "1")
    output = printed("train", "--resume", str(tmp_path / "halved"))
    assert [row[0] for row in heading_and_rows(output)[1:]] == ["2"]
    assert "note:" not in output
    paths = (tmp_path / name / "checkpoints" / "latest.pt" for name in ("straight", "halved"))
    one, two = (load_policy(path).state_dict().values() for path in paths)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("env", [SPREAD, BALANCE])
def test_a_run_whose_episodes_cannot_go_on_says_so(env: str, trained: Any, tmp_path: Path) -> None:
    del trained
    flags = ("--iterations", "3", "--stop-after", "1", "--num-envs", "2", *SMALL, "--num-steps", "6", "--quiet")
    printed("train", "--env", env, *flags, "--runs-dir", str(tmp_path), "--experiment-name", "cut")
    output = printed("train", "--resume", str(tmp_path / "cut"), "--stop-after", "2", "--eval-episodes", "3")
    assert "note: this env can only begin new episodes" in output
    content = torch.load(tmp_path / "cut" / "checkpoints" / "latest.pt", weights_only=True)
    assert (content["progress"]["iteration"], content["config"]["eval_episodes"]) == (2, 3)


def test_a_run_is_named_after_algorithm_sharing_and_task(script: Any) -> None:
    del script
    family = importlib.import_module("environments")
    for text, name in (
        ("pettingzoo:mpe2.simple_spread_v3:N=3", "simple_spread_v3"),
        ("vmas:balance:n_agents=4", "balance"),
    ):
        config = replace(PRESETS["spread"], num_envs=2)
        env = family.find_family(text).training_env(family.Request(text=text, config=config))
        assert RunFolder.new(config, env_name(env)).path.name.startswith(f"mappo_independent_{name}_")
        env.close()


def test_the_preset_goes_by_the_environment(script: Any) -> None:
    del script
    train = importlib.import_module("train")
    expected = {
        "microgrid": "microgrid",
        "pettingzoo:mpe2.simple_speaker_listener_v4": "spread",
        "pettingzoo:simple_spread_v3": "spread",
        "pettingzoo:butterfly.knights_archers_zombies_v10": "default",
        "vmas:navigation": "vmas",
    }
    for env, preset in expected.items():
        args = train._defaults(["--env", env], None)
        assert (args.preset, args.train) == (preset, PRESETS[preset])
    assert train._defaults(["--env", "vmas:balance", "--preset=spread"], None).train == PRESETS["spread"]
    assert train._defaults([], None).train.num_envs == 512
    assert train._defaults(["--preset", "benchmarl"], None).share_reward is False
    assert all(preset.num_envs for preset in PRESETS.values()), "each must say how many copies it goes with"


def test_help_lists_the_presets_and_the_forms_of_env(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del script
    monkeypatch.setenv("COLUMNS", "200")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as stop:
        importlib.import_module("train").main(["--env", "vmas:balance", "--help"])
    assert stop.value.code == 0
    text = output.getvalue()
    for preset in PRESETS:
        assert f"- {preset}: " in text
    for form in ("- microgrid: ", "- pettingzoo:<module>[:key=value,...]: ", "- vmas:<task>[:key=value,...]: "):
        assert form in text
    assert "(default: vmas)" in text


BAD_INPUTS: dict[str, tuple[tuple[str, ...], str]] = {
    "family": (("--env", "gym:CartPole"), "--env must be microgrid or pettingzoo:<module>[:key=value,...] or vmas:<ta"),
    "no family": (("--env", ""), "--env must be microgrid or"),
    "arguments of the microgrid": (("--env", "microgrid:ieee34"), "choose the task with --scenario"),
    "no module": (("--env", "pettingzoo:"), "the name is missing"),
    "unknown module": (("--env", "pettingzoo:atlantis_v0"), "--env pettingzoo:atlantis_v0: no such module"),
    "unknown argument": (("--env", "pettingzoo:simple_spread_v3:M=3"), "does not take M=3"),
    "no value": (("--env", "pettingzoo:simple_spread_v3:N"), "'N' must be key=value"),
    "unknown task": (("--env", "vmas:atlantis"), "--env vmas:atlantis is unknown; the tasks are balance"),
    "argument with a flag": (("--env", "vmas:balance:num_envs=3"), "use --num-envs 3"),
    "scenario": (("--env", SPREAD, "--scenario", "x"), f"--scenario is for --env microgrid, not for --env {SPREAD}"),
    "group size": (
        ("--env", BALANCE, "--group_size=2"),
        f"--group-size is for --env microgrid, not for --env {BALANCE}",
    ),
    "critic state": (("--env", BALANCE, "--critic-state", "full"), "--critic-state is for --env microgrid"),
    "penalty": (("--env", SPREAD, "--penalty", "2"), "--penalty is for --env microgrid"),
    "workers of a batch": (("--env", BALANCE, "--num-workers", "2"), f"--num-workers must be 0 for --env {BALANCE}"),
    "workers and copies": (("--env", SPREAD, "--num-workers", "3"), "--num-workers=3 must divide --num-envs=32"),
    "preset": (("--env", SPREAD, "--preset", "particle"), "--preset must be one of microgrid, default, spread"),
    "discount": (("--env", BALANCE, "--gamma", "1"), "--gamma must be below 1"),
    "other argument": (("--resume", "{balance}", "--env", "vmas:balance:max_steps=9"), "contradicts --resume"),
    "other family": (
        ("--resume", "{spread_s1}", "--env", "pettingzoo:mpe2.simple_spread_v3:N=3"),
        "trained on " + SPREAD,
    ),
    "flag of another": (("--resume", "{spread_s1}", "--penalty", "2"), "--penalty is for --env microgrid"),
    "copies": (("--resume", "{spread_s1}", "--iterations", "9", "--num-envs", "8"), "--num-envs 8"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_names_the_flag(
    case: str, trained: dict[str, tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags, message = BAD_INPUTS[case]
    folders = {name: str(folder) for name, (folder, _) in trained.items()}
    with pytest.raises(ValueError, match=r".") as caught:
        printed("train", *[folders.get(flag.strip("{}"), flag) for flag in flags])
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--env", "vmas:atlantis", "--test"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith("error: --env vmas:atlantis is unknown")
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_may_be_named_without_the_arguments_it_has(trained: dict[str, tuple[Path, str]]) -> None:
    checkpoint = importlib.import_module("cli").read_checkpoint(str(trained["spread_s1"][0]))
    args = importlib.import_module("train")._defaults(["--env", "pettingzoo:mpe2.simple_spread_v3:N=2"], checkpoint)
    assert args.env == SPREAD


def test_a_checkpoint_from_before_copies_were_a_setting_is_resumed(script: Any, tmp_path: Path) -> None:
    del script
    small = ("--iterations", "2", "--stop-after", "1", "--num-envs", "2", "--num-epochs", "1", *SMALL, "--quiet")
    printed("train", *small, "--runs-dir", str(tmp_path), "--experiment-name", "old")
    path = tmp_path / "old" / "checkpoints" / "latest.pt"
    content = torch.load(path, weights_only=True)
    for name in ("num_envs", "num_workers", "eval_episodes", "eval_max_steps"):
        del content["config"][name]
    torch.save(content, path)
    checkpoint = importlib.import_module("cli").read_checkpoint(str(path))
    assert importlib.import_module("train")._defaults([], checkpoint).train.num_envs == 2
    assert printed("train", "--resume", str(path), "--quiet").startswith("best evaluation: score")
    assert torch.load(path, weights_only=True)["progress"]["iteration"] == 2


def report(*arguments: str) -> dict[str, Any]:
    return json.loads(printed("evaluate", *arguments, "--json"))


def test_evaluation_says_sum_and_mean_beside_random_and_idle(
    trained: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    folder, arguments = trained["spread_s1"][0], ("--episodes", "6", "--out", str(tmp_path))
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
    trained: dict[str, tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = importlib.import_module("environments").FAMILIES["pettingzoo"]
    arguments = (str(trained["spread_s1"][0]), "--episodes", "5", "--baselines", "none", "--out", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(type(family), "chunk", 2)
        report(*arguments)
    with (tmp_path / "episodes.csv").open(newline="") as file:
        returns = [row["return_summed_over_agents"] for row in csv.DictReader(file)]
    assert len(set(returns)) == 5, "every batch plays episodes of its own"


def test_seeds_of_one_configuration_are_summarised(trained: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    folders = [str(trained[name][0]) for name in ("spread_s1", "spread_s2")]
    result = report(*folders, "--episodes", "2", "--baselines", "none", "--out", str(tmp_path))
    ((name, group),) = result["groups"].items()
    assert (name, group["across"]) == ("spread, 2 seeds", "mean and range")
    values = [result["policies"][run]["return_summed_over_agents"]["value"] for run in group["runs"]]
    found = group["return_summed_over_agents"]
    assert (found["low"], found["high"]) == (min(values), max(values))
    assert found["value"] == pytest.approx(sum(values) / 2)


def test_vmas_is_evaluated_in_one_batch(trained: dict[str, tuple[Path, str]]) -> None:
    folder = trained["balance"][0]
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
    case: str, trained: dict[str, tuple[Path, str]]
) -> None:
    flags, message = BAD_EVALUATIONS[case]
    folders = {name: folder for name, (folder, _) in trained.items()}
    before = sorted(folders["balance"].rglob("*"))
    with pytest.raises(ValueError, match=r".") as caught:
        printed("evaluate", *(str(folders.get(flag.strip("{}"), flag)) for flag in flags))
    assert message in str(caught.value)
    assert sorted(folders["balance"].rglob("*")) == before


def test_episode_flags_are_not_for_the_microgrid(script: Any, runs: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="--episodes is not for runs on --env microgrid, which have --split, --days"):
        script.main([str(runs["tiny_s1"]), "--episodes", "3"])


def test_plot_draws_the_returns_of_any_run(trained: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    folders = [folder for folder, _ in trained.values()]
    plot = importlib.import_module("plot")
    titles = {panel.title: panel.column for panel in plot.panels(tuple(folders))}
    assert titles["return of held-out episodes, mean of the agents"] == "eval/return"
    printed("plot", *map(str, folders), "--out", str(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_plot_draws_one_column_in_a_panel_for_each_environment(
    trained: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    folders = [folder for folder, _ in trained.values()]
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


ENDLESS = """
from tests.toy_parallel import ToyParallelEnv

def parallel_env(**kwargs):
    return ToyParallelEnv(horizon=None)
"""


def test_an_env_that_never_ends_trains_without_returns_and_says_so(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del script
    (tmp_path / "endless_toy.py").write_text(ENDLESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    limit, place = ("--eval-max-steps", "20"), ("--runs-dir", str(tmp_path / "runs"))
    output = printed("train", "--env", "pettingzoo:endless_toy", "--test", *SMALL, *limit, *place)
    assert "note: no episode ended in the first 10 steps" in " ".join(output.split())
    assert [row[1:4] for row in heading_and_rows(output)[1:]] == [["-", "-", "0"]] * 3
    assert "nan" not in output
