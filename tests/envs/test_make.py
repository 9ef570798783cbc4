"""`envs.make` and `env.spec`: what a caller or a checkpoint hands over, and what comes back."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import envs
from envs.scenario import DATA, load_scenario

DEFAULT = DATA / "scenarios" / "ieee34_ieee13.yaml"


def own_scenario(folder: Path, **edit: Any) -> Path:
    """The default scenario as a file, with its feeder's tables beside it and some keys replaced."""
    content = yaml.safe_load(DEFAULT.read_text()) | {"name": "mine"} | edit
    shutil.copytree(DATA / "networks" / "ieee34", folder / "tables")
    content["feeder"]["network"] = "tables"
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_waiting_threads_spin_briefly_after_importing_envs_first() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    shown = subprocess.run(
        [sys.executable, "-c", "import envs"],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this torch does not use GNU OpenMP")
    assert "GOMP_SPINCOUNT = '10000'" in shown


def test_numpy_numbers_and_torch_devices_are_settings() -> None:
    env = envs.make(
        device=torch.device("cpu"),
        seed=np.int64(3),
        num_envs=np.int64(4),
        penalty=np.float32(0.5),
        evaluation=np.bool_(False),
    )
    plain = envs.make(device="cpu", seed=3, num_envs=4, penalty=0.5, evaluation=False)
    assert json.loads(json.dumps(env.spec)) == plain.spec
    assert env.settings == plain.settings
    assert torch.equal(env.reset()[0], plain.reset()[0])


def test_a_packaged_scenario_stays_a_name_in_the_spec() -> None:
    env = envs.make(num_envs=2, horizon="week")
    assert env.spec == {"scenario": "ieee34_ieee13", "num_envs": 2, "horizon": "week"}


def test_a_spec_rebuilds_the_env_after_its_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_scenario(tmp_path)
    monkeypatch.chdir(tmp_path)
    env = envs.make("mine.yaml", num_envs=2, seed=4, safety={"v_min_pu": 0.96})
    assert env.spec["scenario"] == str(path)
    spec = json.loads(json.dumps(env.spec))
    path.unlink()
    monkeypatch.chdir("/")
    again = envs.make(**spec)
    assert again.scenario == env.scenario
    assert again.spec == env.spec
    assert torch.equal(again.reset()[0], env.reset()[0])
    other = envs.make(**(spec | {"num_envs": None, "split": "val", "evaluation": True}))
    assert (other.num_envs, other.scenario) == (70, env.scenario)


def test_stored_content_belongs_to_its_own_file_alone(tmp_path: Path) -> None:
    spec: dict[str, Any] = envs.make(own_scenario(tmp_path, curtailment=True)).spec
    spec["scenario"] = "ieee34_ieee13"
    assert envs.make(**spec).scenario == load_scenario("ieee34_ieee13")


def test_paths_in_a_scenario_count_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("simbench_2016", "price_2016"):
        shutil.copy(DATA / "profiles" / f"{name}_hourly.csv.gz", tmp_path / f"{name}_mine.csv.gz")
    data = {"profiles": "./simbench_2016_mine.csv.gz", "prices": "price_2016_mine.csv.gz"}
    path = own_scenario(tmp_path, data=yaml.safe_load(DEFAULT.read_text())["data"] | data)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "tables").mkdir(parents=True)  # the scenario's own folder comes first
    monkeypatch.chdir(elsewhere)
    scenario = envs.make(path).scenario
    assert scenario.feeder.network == str(tmp_path / "tables")
    assert scenario.data.profiles == str(tmp_path / "simbench_2016_mine.csv.gz")
    assert scenario.microgrids["MG1"].network == "ieee13"


def test_paths_in_overrides_count_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(DATA / "networks" / "ieee34", tmp_path / "tables")
    monkeypatch.chdir(tmp_path)
    env = envs.make(feeder={"network": "tables"})
    monkeypatch.chdir("/")
    assert envs.make(**env.spec).scenario == env.scenario


def test_bus_names_need_no_quotes(tmp_path: Path) -> None:
    text = DEFAULT.read_text().replace('"', "")
    assert "bus: 830" in text
    (tmp_path / "mine.yaml").write_text(text)
    assert load_scenario(tmp_path / "mine.yaml") == load_scenario("ieee34_ieee13")


def test_a_merged_key_may_be_replaced(tmp_path: Path) -> None:
    text = "base: &base {p: 1}\nouter: {<<: *base, p: 2}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="unknown key 'base'"):
        load_scenario(tmp_path / "mine.yaml")


def test_the_days_of_an_evaluation_are_known_before_reset() -> None:
    env = envs.make(split="test", evaluation=True)
    before = env.day.clone()
    env.reset()
    assert torch.equal(before, env.day)


@pytest.mark.parametrize("horizon", ["day", "week"])
def test_cost_column_names_the_horizon(horizon: str) -> None:
    specs = {spec.name: spec for spec in envs.make(horizon=horizon).metric_specs}
    assert specs["cost_usd"].column == f"Cost $/{horizon}"
    assert format(0.0014, specs["violating"].format) == "0.14%"


def test_one_action_is_for_all_copies_and_arrays_are_accepted() -> None:
    first, *others = (envs.make(num_envs=3, seed=2) for _ in range(4))
    action = first.idle_action()
    batch = action.expand(first.action_shape)
    first.reset()
    expected = first.step(batch)
    for env, given in zip(others, (action, action.numpy(), batch.double().numpy()), strict=True):
        env.reset()
        assert torch.equal(env.step(given).rewards, expected.rewards)


def test_reset_takes_whole_numbers_as_seed() -> None:
    env = envs.make(num_envs=2)
    assert torch.equal(env.reset(np.int64(3))[0], env.reset(3)[0])
    with pytest.raises(ValueError, match=r"seed must be a whole number such as 3, got 1\.5"):
        env.reset(1.5)  # pyright: ignore[reportArgumentType]
