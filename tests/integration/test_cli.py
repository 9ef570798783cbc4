"""The scripts as a user runs them, in processes of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import envs
from mappo import load_policy

ROOT = Path(__file__).parents[2]
TINY = ("--num-envs", "4", "--hidden-dim", "8", "--num-epochs", "1", "--num-minibatches", "2")


def run(script: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in an empty folder, so that its default run folder is ours."""
    command = [sys.executable, str(ROOT / "scripts" / script), *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


def only_run(cwd: Path) -> Path:
    (folder,) = (path for path in (cwd / "runs").iterdir() if path.name != ".cache")  # of solved bounds
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which `train.py --test` ran, and what it printed."""
    cwd = tmp_path_factory.mktemp("trained")
    result = run("train.py", "--test", "--hidden-dim", "16", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd, result.stdout


def test_test_mode_prints_a_banner_rows_and_the_next_commands(trained: tuple[Path, str]) -> None:
    _, output = trained
    for word in ("MAPPO on ieee34_ieee13", "run folder", "Iter |", "best evaluation", "evaluate:", "resume:", "plot:"):
        assert word in output
    rows = [line for line in output.splitlines() if line.strip().split(" | ")[0].strip() in {"1", "2", "3"}]
    assert len(rows) == 3
    assert len({len(row) for row in rows}) == 1, "rows must be aligned"


def test_a_run_folder_holds_config_metrics_events_and_checkpoints(trained: tuple[Path, str]) -> None:
    folder = only_run(trained[0])
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["algo"] == "mappo"
    assert config["env"]["scenario"] == "ieee34_ieee13"
    assert config["versions"]["torch"]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["iteration"])) for row in rows] == [0, 1, 2, 3]
    assert [int(float(row["env_steps"])) for row in rows] == [0, 768, 1536, 2304]
    assert all(row["eval/score"] for row in rows)
    assert list(folder.glob("events.out.tfevents.*"))
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"best.pt", "latest.pt", "iteration_000001.pt", "iteration_000002.pt", "iteration_000003.pt"}


def test_tensorboard_gets_every_group_and_the_pictures(trained: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(only_run(trained[0])))
    events.Reload()
    groups = {tag.split("/")[0] for tag in events.Tags()["scalars"]}
    assert {"train", "eval", "losses", "policy", "value", "grid", "time"} <= groups
    assert {"dispatch", "grid"} <= {tag.split("/")[-1] for tag in events.Tags()["images"]}
    assert [event.step for event in events.Scalars("eval/score")] == [0, 768, 1536, 2304]


def test_evaluate_prints_the_policy_beside_idle(trained: tuple[Path, str]) -> None:
    folder = only_run(trained[0])
    result = run("evaluate.py", str(folder), "--days", "2", "--baselines", "idle", "--workers", "1", "--json",
                 cwd=trained[0])  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["days"] == 2
    with (ROOT / "envs/data/reference/ieee34_ieee13_days.csv").open(newline="") as file:
        idle_usd = [float(row["idle_usd"]) for row in csv.DictReader(file) if row["split"] == "test"][:2]
    assert report["policies"]["idle"]["j_usd_per_day"] == pytest.approx(sum(idle_usd) / 2, rel=1e-4)
    assert report["policies"]["idle"]["score"]["value"] == pytest.approx(0.0, abs=1e-4)
    assert report["policies"][folder.name]["j_usd_per_day"] != report["policies"]["idle"]["j_usd_per_day"]
    names = {path.name for path in (folder / "evaluation-test-2-days").iterdir()}
    assert names == {"evaluation.json", "days.csv", "summary.csv", "report.html", "figures"}


def test_plot_draws_the_curves_of_a_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    result = run("plot.py", str(only_run(trained[0])), "--out", "curves.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    missing = run("plot.py", "nowhere", cwd=tmp_path)
    assert missing.returncode == 2
    assert "nowhere holds no metrics.csv" in missing.stderr


def test_benchmark_measures_every_stage(tmp_path: Path) -> None:
    stages = ("env", "protocols", "scenarios")
    result = run("benchmark.py", *stages, "--test", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rates = json.loads(result.stdout)["rates"]
    assert {rate["stage"] for rate in rates} == set(stages)
    assert all(rate["lowest"] <= rate["median"] <= rate["highest"] for rate in rates)
    assert all(rate["lowest"] > 0 for rate in rates if rate["unit"] != "% more than none")
    assert list(tmp_path.iterdir()) == []


def test_resume_from_the_command_line_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    for folder in (straight, stopped):
        folder.mkdir()
    plan = ("--iterations", "4", "--eval-every", "2", *TINY)
    assert run("train.py", *plan, "--quiet", cwd=straight).returncode == 0
    assert run("train.py", *plan, "--stop-after", "2", "--quiet", cwd=stopped).returncode == 0
    latest = only_run(stopped) / "checkpoints" / "latest.pt"
    resumed = run("train.py", "--resume", str(latest), cwd=stopped)
    assert resumed.returncode == 0, resumed.stderr
    states = [torch.load(only_run(cwd) / "checkpoints" / "latest.pt", weights_only=True) for cwd in (straight, stopped)]
    for name, value in states[0]["policy"]["weights"].items():
        assert torch.equal(value, states[1]["policy"]["weights"][name]), name
    assert states[0]["progress"]["env_steps"] == states[1]["progress"]["env_steps"]


def test_flags_of_the_older_rllib_script_work(tmp_path: Path) -> None:
    flags = ("--iterations", "3", "--independent-policies", "--no-share-reward", "--checkpoint-freq", "1",
             "--lambda", "0.9", "--num-sgd-iter", "2", "--sgd-minibatch-size", "48", "--num-envs-per-worker", "4",
             "--no-cuda", "--hidden-dim", "8")  # fmt: skip
    result = run("train.py", *flags, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    config = json.loads((only_run(tmp_path) / "config.json").read_text())["config"]
    assert (config["policy_sharing"], config["reward_mode"], config["gae_lambda"]) == ("independent", "individual", 0.9)
    assert (config["num_epochs"], config["minibatch_size"], config["device"]) == (2, 48, "cpu")
    checkpoint = only_run(tmp_path) / "checkpoints" / "iteration_000003.pt"
    more = run("train.py", "--resume", str(checkpoint), "--iterations", "4", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "stretched" in more.stdout


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--iterations", "500", *TINY]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().startswith("2 |"):
                break
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        output, errors = process.communicate(timeout=60)
        assert time.monotonic() - started < 60
    assert process.returncode == 0, errors
    assert "saving" in errors
    assert "--resume" in output
    state = torch.load(only_run(tmp_path) / "checkpoints" / "latest.pt", weights_only=True)
    assert 2 <= state["progress"]["iteration"] < 500


def test_a_policy_loads_and_acts_outside_the_scripts(trained: tuple[Path, str]) -> None:
    policy = load_policy(only_run(trained[0]) / "checkpoints" / "best.pt")
    env = envs.make(num_envs=3, seed=1)
    obs, _ = env.reset()
    actions = policy.act(obs)
    assert actions.shape == env.action_shape
    assert actions.abs().max() <= 1
    assert torch.allclose(policy.for_agent("MG2").act(obs[:, 1]), actions[:, 1], atol=1e-6)


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); import cli; cli.run_command(lambda: int('x'))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


BAD_INPUTS = {
    "unknown flag": (("--iteration", "3"), "--iteration"),
    "unknown scenario": (("--scenario", "atlantis"), "ieee34_ieee13"),
    "remainder": (("--minibatch-size", "100"), "--minibatch-size 100 must divide"),
    "groups that do not fit": (("--num-envs", "6", "--group-size", "4"), "--group-size must be at least 1 and divide"),
    "no copies": (("--num-envs", "0"), "--num-envs must be at least 1; got 0"),
    "device": (("--device", "cuda:77"), "--device cuda:77"),
    "gamma": (("--gamma", "2"), "--gamma must be in (0, 1]"),
    "checkpoint": (("--resume", "nowhere.pt"), "no checkpoint at nowhere.pt"),
    "contradiction": (("--independent-policies", "--policy-sharing", "grouped"), "--independent-policies contradicts"),
    "workers": (("--num-workers", "3"), "--num-workers 3 must divide --num-envs 512, whose 64 groups"),
    "workers on a GPU": (("--num-workers", "2", "--device", "meta"), "--num-workers must be 0 for --device meta"),
    "processes": (("--processes", "-1"), "--processes must be at least 0, got '-1'"),
    "batch": (("--train-batch-size", "1000"), "--train-batch-size 1000 must be a multiple of --num-envs 512"),
    "resume and test": (("--resume", "runs/x", "--test"), "--resume contradicts --test"),
    "resume and preset": (("--resume", "runs/x", "--preset", "spread"), "--resume contradicts --preset"),
    "resume and init-from": (("--resume=runs/x", "--init-from=runs/y"), "--resume contradicts --init-from"),
    "resume what": (("--resume=",), "a checkpoint or a run folder must be given, got an empty name"),
    "ippo's state": (("--algo", "ippo", "--critic-state", "full"), "--critic-state full contradicts --algo ippo"),
    "seed": (("--seed", str(2**63)), "--seed must be from 0 to 2**63 - 1; got 9223372036854775808. For"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_exit_code_2_and_leaves_nothing_behind(case: str, tmp_path: Path) -> None:
    flags, message = BAD_INPUTS[case]
    result = run("train.py", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--runs-dir", "--checkpoint-dir"])
def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing_behind(flag: str, tmp_path: Path) -> None:
    result = run("train.py", flag, "/proc/x", *TINY, cwd=tmp_path)
    assert result.returncode == 2
    assert f"{flag} must be a folder that can be written to; got /proc/x" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_stands_for_its_checkpoints_wherever_they_are(tmp_path: Path) -> None:
    first = run("train.py", "--iterations", "1", "--checkpoint-dir", "kept", *TINY, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    name = only_run(tmp_path).name
    assert {path.name for path in (tmp_path / "kept" / name).iterdir()} == {"best.pt", "latest.pt"}
    commands = dict(line.split(":", 1) for line in first.stdout.splitlines() if line.startswith(("evaluate", "resume")))
    for command in commands.values():
        script, *flags = command.replace("python scripts/", "").split()
        flags += ["--days", "1", "--baselines", "none", "--workers", "1"] if script == "evaluate.py" else []
        result = run(script, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    again = run("train.py", "--init-from", f"runs/{name}", "--iterations", "1", *TINY, cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_minibatch_flag_replaces_the_presets(tmp_path: Path) -> None:
    flags = ("--preset", "spread", "--minibatch-size", "50", "--num-envs", "4", "--hidden-dim", "8", "--quiet")
    result = run("train.py", *flags, "--iterations", "1", "--num-epochs", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("best evaluation: score")
    assert result.stdout.count("\n") == 1, "--quiet prints only the best evaluation"
    more = ("--iterations", "2", "--num-minibatches", "1", "--quiet")
    resumed = run("train.py", "--resume", str(only_run(tmp_path)), *more, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr


def test_the_banner_of_ippo_does_not_speak_of_the_state(tmp_path: Path) -> None:
    result = run("train.py", "--algo", "ippo", "--iterations", "1", *TINY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "ippo, the critic sees each agent's own observation" in result.stdout
    assert "state" not in result.stdout


def test_a_second_ctrl_c_stops_at_once_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--num-envs", "512", "--num-epochs", "50"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("Iter |"):
                break
        process.send_signal(signal.SIGINT)
        while "interrupted" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_closed_pipe_ends_the_script_quietly(flags: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--iterations", "500", *TINY, *flags]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"hoizon": "week"}, "unknown key 'hoizon'"),
        ({"horizon": "week"}, "--gamma must be below 1"),
        ({"data": {"profiles": "missing.csv", "prices": "price_2016"}}, "'missing.csv' is missing"),
    ],
)
def test_bad_scenario_files_name_the_key(edit: dict[str, object], message: str, tmp_path: Path) -> None:
    scenario = yaml.safe_load((ROOT / "envs/data/scenarios/ieee34_ieee13.yaml").read_text()) | edit
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(scenario))
    result = run("train.py", "--scenario", str(path), cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_negative_capacity_is_refused_with_its_place(tmp_path: Path) -> None:
    scenario = yaml.safe_load((ROOT / "envs/data/scenarios/ieee34_ieee13.yaml").read_text())
    scenario["microgrids"]["MG2"]["battery"]["energy_max_mwh"] = -2.0
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(scenario))
    result = run("train.py", "--scenario", str(path), cwd=tmp_path)
    assert result.returncode == 2
    assert "microgrids.MG2.battery.energy_max_mwh" in result.stderr
    assert "-2.0" in result.stderr
