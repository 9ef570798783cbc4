"""What train.py makes of a preset and typed flags: sizes that fit, contradictions, `--json`."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mappo import TrainConfig
from tests.integration.conftest import BALANCE, ROOT, SMALL, SPREAD, keeping_ctrl_c, printed

NOISY = """
import os
from tests.toy_parallel import ToyParallelEnv

class Noisy(ToyParallelEnv):
    def reset(self, *args, **kwargs):
        print("noise of Python")
        os.system("echo noise of a child")
        return super().reset(*args, **kwargs)

def parallel_env(**kwargs):
    return Noisy()
"""


@pytest.fixture(scope="module", autouse=True)
def _ctrl_c() -> Iterator[None]:
    with keeping_ctrl_c():
        yield


def settings_of(*flags: str) -> tuple[TrainConfig, list[str]]:
    """The settings that a new run would have, and the notes."""
    train, settings, cli = (importlib.import_module(name) for name in ("train", "settings", "cli"))
    defaults = train._defaults(flags, None)
    args, notes = cli.parse(train.Args, flags, default=defaults, description=None), []
    config = settings.resolved(args.train, defaults.train, cli.flags_in(flags))
    config = settings.fitted(config, cli.flags_in(flags), f"preset {args.preset}", notes.append)
    assert config.minibatch_count(config.num_envs), "the sizes fit"
    return config, notes


FITTING: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "copies": (
        ("--env", BALANCE, "--num-envs", "32"),
        {"num_minibatches": 10},
        "--num-minibatches 15 of preset vmas does not divide the batch of --num-envs 32 x --num-steps 100, using 10",
    ),
    "all": (("--env", SPREAD, "--num-envs", "5", "--num-steps", "25"), {"num_minibatches": 1}, "--num-minibatches 4 "),
    "chunks": (
        ("--env", SPREAD, "--recurrent", "gru", "--num-steps", "25"),
        {"chunk_length": 5, "num_minibatches": 4},
        "--chunk-length 10 of preset spread does not divide --num-steps 25, using 5",
    ),
    "minibatch size": (
        ("--env", BALANCE, "--preset", "benchmarl", "--num-envs", "5"),
        {"minibatch_size": 250},
        "--minibatch-size 400 of preset benchmarl",
    ),
}


@pytest.mark.parametrize("case", FITTING)
def test_sizes_of_a_preset_give_way_to_typed_ones_with_a_note(case: str, script: Any) -> None:
    del script  # puts its folder on the path
    flags, expected, note = FITTING[case]
    config, notes = settings_of(*flags)
    assert {name: getattr(config, name) for name in expected} == expected
    assert len(notes) == 1
    assert notes[0].startswith(note)


def test_sizes_that_fit_stay_without_a_note(script: Any) -> None:
    del script
    assert settings_of("--env", BALANCE)[0].num_minibatches == 15
    assert settings_of("--env", BALANCE, "--num-envs", "30")[1] == []
    config, notes = settings_of("--env", BALANCE, "--train-batch-size", "3000")
    assert (config.rollout_steps(60), notes) == (50, [])


def test_a_typed_size_that_does_not_fit_stays_an_error(script: Any) -> None:
    del script
    with pytest.raises(ValueError, match="--num-minibatches 7 must divide the batch of 3200"):
        settings_of("--env", BALANCE, "--num-envs", "32", "--num-minibatches", "7")
    with pytest.raises(ValueError, match="--chunk-length 7 must divide --num-steps 25"):
        settings_of("--env", SPREAD, "--recurrent", "gru", "--num-steps", "25", "--chunk-length", "7")


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ((), "individual"),
        (("--share-reward",), "mean"),
        (("--reward-mode", "sum"), "sum"),
        (("--reward-mode", "sum", "--share-reward"), "sum"),
        (("--reward-mode", "individual"), "individual"),
        (("--no-share-reward",), "individual"),
    ],
)
def test_what_is_typed_of_the_reward_wins_over_the_preset(flags: tuple[str, ...], mode: str, script: Any) -> None:
    del script
    assert settings_of("--env", BALANCE, "--preset", "benchmarl", *flags)[0].reward_mode == mode


def test_a_preset_gives_way_to_a_typed_algorithm_and_policy_map(script: Any) -> None:
    del script
    flags = ("--env", BALANCE, "--preset", "benchmarl")
    assert settings_of(*flags)[0].critic_input == "state"
    assert settings_of(*flags, "--algo=ippo")[0].critic_input == "auto"
    with pytest.raises(ValueError, match="--critic-input state contradicts --algo ippo"):
        settings_of(*flags, "--algo", "ippo", "--critic-input", "state")
    assert settings_of("--env", SPREAD, "--policy-map", "agent_0", "a", "agent_1", "b")[0].sharing == "mapped"


BAD_INPUTS: dict[str, tuple[tuple[str, ...], str]] = {
    "both": (("--share-reward", "--reward-mode", "individual"), "--share-reward contradicts --reward-mode individual"),
    "neither": (("--no-share-reward", "--reward-mode", "mean"), "--no-share-reward contradicts --reward-mode mean"),
    "yes and no": (("--share-reward", "--no-share-reward"), "--share-reward contradicts --no-share-reward"),
    "happo": (("--algo", "happo", "--policy-sharing", "shared"), "--policy-sharing shared contradicts --algo happo"),
    "map and one each": (
        ("--independent-policies", "--policy-map", "agent_0", "a", "agent_1", "a"),
        "--independent-policies contradicts --policy-map",
    ),
    "odd map": (("--policy-map", "agent_0", "a", "agent_1"), "--policy-map must be pairs of an agent and the name of"),
    "seed": (("--seed", "1000003"), f"--seed must be below 1000003 for --env {SPREAD}, got 1000003"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_contradictions_and_bad_values_are_named(
    case: str, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del script
    monkeypatch.chdir(tmp_path)
    flags, message = BAD_INPUTS[case]
    with pytest.raises(ValueError, match=r".") as caught:
        printed("train", "--env", SPREAD, *flags)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ("--env", "pettingzoo:simple_spread_v3"),
        ("--env", "pettingzoo:simple_spread_v3", "--recurrent", "gru"),
        ("--env", "pettingzoo:noisy_toy"),
        ("--env", "vmas:balance"),
        ("--env", "vmas:balance", "--preset", "benchmarl"),
        ("--env", "vmas:balance", "--minibatch-size", "40"),
    ],
)
def test_test_mode_runs_with_every_preset(
    flags: tuple[str, ...], script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del script
    (tmp_path / "noisy_toy.py").write_text(NOISY)
    monkeypatch.syspath_prepend(str(tmp_path))
    place = ("--runs-dir", str(tmp_path / "runs"), "--experiment-name", "test")
    output = printed("train", *flags, "--test", "--hidden-dim", "8", "--no-tensorboard", *place)
    assert "best evaluation: return" in output
    assert "does not divide" not in output


def test_json_is_all_of_stdout_whatever_the_env_prints(tmp_path: Path) -> None:
    (tmp_path / "noisy_toy.py").write_text(NOISY)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}

    def run(script: str, *flags: str) -> list[dict[str, Any]]:
        command = [sys.executable, str(ROOT / "scripts" / script), *flags, "--json"]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120, env=environment
        )
        assert result.returncode == 0, result.stderr
        assert "noise of Python" in result.stderr
        assert "noise of a child" in result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    flags = ("--env", "pettingzoo:noisy_toy", "--test", "--num-workers", "2", "--experiment-name", "noisy", *SMALL)
    assert [row["iteration"] for row in run("train.py", *flags)] == [0, 1, 2, 3]
    (content,) = run("evaluate.py", "runs/noisy", "--episodes", "3", "--workers", "2")
    assert content["episodes"] == 3
