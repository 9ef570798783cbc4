"""train.py on environments other than the microgrid: PettingZoo and VMAS. Runs are tiny, most in this process."""

import contextlib
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mappo import PRESETS, load_policy
from mappo.parts import env_name
from mappo.run_folder import RunFolder
from tests.integration.conftest import BALANCE, SMALL, SPREAD, keeping_ctrl_c, printed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _ctrl_c() -> Iterator[None]:
    with keeping_ctrl_c():
        yield


def heading_and_rows(output: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(" | ")] for line in output.splitlines() if " | " in line]


@pytest.mark.parametrize(("name", "env", "agents"), [("spread_s1", SPREAD, 2), ("balance", BALANCE, 3)])
def test_test_mode_says_what_reward_means_and_shows_a_row_an_iteration(
    name: str, env: str, agents: int, env_runs: dict[str, tuple[Path, str]]
) -> None:
    folder, output = env_runs[name]
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
def test_a_run_whose_rollouts_end_with_its_episodes_resumes_bit_for_bit(
    env: str, env_runs: Any, tmp_path: Path
) -> None:
    del env_runs  # the scripts are on the path
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
def test_a_run_whose_episodes_cannot_go_on_says_so(env: str, env_runs: Any, tmp_path: Path) -> None:
    del env_runs
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
        "pettingzoo:butterfly.knights_archers_zombies_v11": "default",
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
    "workers and copies": (("--env", SPREAD, "--num-workers", "3"), "--num-workers 3 must divide --num-envs 32"),
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
    case: str, env_runs: dict[str, tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags, message = BAD_INPUTS[case]
    folders = {name: str(folder) for name, (folder, _) in env_runs.items()}
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


def test_a_resumed_run_may_be_named_without_the_arguments_it_has(env_runs: dict[str, tuple[Path, str]]) -> None:
    checkpoint = importlib.import_module("cli").read_checkpoint(str(env_runs["spread_s1"][0]))
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
