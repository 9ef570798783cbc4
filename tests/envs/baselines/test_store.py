"""Solved days on disk: the key, damaged files, and what is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.baselines import store as store_module
from envs.baselines.certificate import DaySolution
from envs.baselines.store import BoundStore, Row, default_cache
from envs.devices import Applied
from envs.exogenous import ExogenousDay
from envs.microgrid import MicrogridEnv
from envs.scenario import Scenario, load_scenario
from envs.settings import EnvSettings


@pytest.fixture(scope="module")
def today(scenario: Scenario) -> ExogenousDay:
    env = MicrogridEnv(scenario, EnvSettings(num_envs=2, split="test", evaluation=True, dtype="float64"))
    env.reset()
    return env.situation().today


def solution(usd: float, status: str = "Solved") -> Row:
    points = Applied(*(torch.full((24, 3), usd + k, dtype=torch.float64) for k in range(5)))
    return DaySolution(usd, usd + 1, 0.1, 0.0, 1e-5, 1e-6, points, status), usd - 5


def a_store(folder: Path) -> BoundStore:
    return BoundStore(folder / "deep" / "days.npz")


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    rows = {3: solution(7.0), 40: solution(8.0, "AlmostSolved")}
    a_store(tmp_path).write(rows)
    found = a_store(tmp_path).read()
    assert list(found) == [3, 40]
    for day, (wanted, floor) in rows.items():
        got, got_floor = found[day]
        assert got_floor == floor
        assert got._replace(set_points=None) == wanted._replace(set_points=None)  # pyright: ignore
        assert all(torch.equal(a, b) for a, b in zip(got.set_points, wanted.set_points, strict=True))
        assert got.set_points.battery_p_mw.dtype == torch.float64


def test_nothing_is_kept_without_a_path_or_a_solved_day(tmp_path: Path) -> None:
    nothing = BoundStore(None)
    nothing.write({1: solution(1.0)})
    assert nothing.read() == {}
    assert a_store(tmp_path).read() == {}
    a_store(tmp_path).write({1: solution(float("nan"), "MaxTime")})
    assert list(tmp_path.iterdir()) == []
    a_store(tmp_path).write({1: solution(float("nan"), "MaxTime"), 2: solution(2.0)})
    assert list(a_store(tmp_path).read()) == [2]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match=r"the cache .*days\.npz cannot be written \(.+\); nothing is kept"):
        a_store(tmp_path).write({1: solution(1.0)})
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_floor_that_is_not_known_is_kept_as_such(tmp_path: Path) -> None:
    a_store(tmp_path).write({1: (solution(1.0)[0], float("nan"))})
    assert np.isnan(a_store(tmp_path).read()[1][1])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("not an archive")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))


def _drop_a_column(path: Path) -> None:
    with np.load(path) as file:
        content = {name: file[name] for name in file.files if name != "floor_usd"}
    np.savez(path, allow_pickle=False, **content)


def _shorten_a_column(path: Path) -> None:
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    np.savez(path, allow_pickle=False, **{**content, "status": content["status"][:1]})


@pytest.mark.parametrize("damage", [_truncate, _empty, _text, _flip, _drop_a_column, _shorten_a_column])
def test_a_damaged_file_is_named_in_a_warning_and_replaced(tmp_path: Path, damage: Any) -> None:
    store = a_store(tmp_path)
    store.write({3: solution(7.0), 4: solution(8.0)})
    assert store.path is not None
    damage(store.path)
    with pytest.warns(UserWarning, match=r"the cache .*days\.npz is damaged \(.+\); its days are solved again"):
        assert store.read() == {}
    store.write({5: solution(9.0)})
    assert list(store.read()) == [5]


def test_a_directory_in_place_of_the_file_is_not_read(tmp_path: Path) -> None:
    a_store(tmp_path).path.mkdir(parents=True)  # pyright: ignore[reportOptionalMemberAccess]
    assert a_store(tmp_path).read() == {}


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(tmp_path)
    store.write({3: solution(7.0)})

    def interrupted(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module.np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write({3: solution(7.0), 4: solution(8.0)})
    assert store.path is not None
    assert list(store.path.parent.iterdir()) == [store.path]
    assert list(store.read()) == [3]


def test_writing_leaves_one_file(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    for day in range(3):
        store.write({**store.read(), day: solution(float(day))})
    assert store.path is not None
    assert list(store.path.parent.iterdir()) == [store.path]
    assert list(store.read()) == [0, 1, 2]


def key(scenario: Scenario, today: ExogenousDay, split: Any = "test") -> str:
    path = BoundStore.of(scenario, today, split, Path("x")).path
    assert path is not None
    return path.stem.rsplit("-", 1)[1]


def test_the_file_is_named_after_scenario_and_split(scenario: Scenario, today: ExogenousDay) -> None:
    path = BoundStore.of(scenario, today, "val", Path("x")).path
    assert path is not None
    assert path.name.startswith("ieee34_ieee13-val-")
    assert BoundStore.of(scenario, today, "val", None).path is None
    assert default_cache() == Path("runs/.cache/bounds")


def test_name_and_description_do_not_change_the_key(scenario: Scenario, today: ExogenousDay) -> None:
    other = load_scenario("ieee34_ieee13", {"name": "mine", "description": "another"})
    assert key(other, today) == key(scenario, today)


@pytest.mark.parametrize(
    "overrides",
    [
        {"dt_h": 0.25},
        {"settlement": "individual"},
        {"curtailment": True},
        {"feeder": {"load_scale": 0.51}},
        {"feeder": {"slack_v_pu": 1.0351}},
        {"feeder": {"capacitors": {"C848": 1}}},
        {"microgrids": {"MG2": {"bus": "846"}}},
        {"microgrids": {"MG3": {"battery": {"efficiency": 0.981}}}},
        {"microgrids": {"MG3": {"generator": {"cost_constant_usd_per_h": 0.5}}}},
        {"microgrids": {"MG1": {"regulators": {"Substation": {"target_pu": 1.0, "deadband_pu": 0.0166}}}}},
        {"tariff": {"export_share": 0.51}},
        {"safety": {"failed_flow_usd_per_h": 1999.0}},
        {"episode": {"initial_energy_mwh": 1.01}},
        {"data": {"price_cap_usd_per_mwh": 249.0}},
    ],
)
def test_every_value_of_the_scenario_changes_the_key(
    overrides: dict[str, Any], scenario: Scenario, today: ExogenousDay
) -> None:
    assert key(load_scenario("ieee34_ieee13", overrides), today) != key(scenario, today)


@pytest.mark.parametrize("name", ["price", "load", "renewables_mw"])
def test_the_data_change_the_key(name: str, scenario: Scenario, today: ExogenousDay) -> None:
    values = getattr(today, name).clone()
    values.view(-1)[-1] += 1e-9
    assert key(scenario, replace(today, **{name: values})) != key(scenario, today)
    assert key(scenario, replace(today, yesterday_load=0 * today.yesterday_load)) == key(scenario, today)


def test_the_split_and_the_network_tables_change_the_key(
    scenario: Scenario, today: ExogenousDay, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = key(scenario, today)
    assert key(scenario, today, "val") != usual
    tree = store_module.Tree.of(scenario)
    longer = replace(tree, r_pu=tree.r_pu * (1 + 1e-12))
    monkeypatch.setattr(store_module.Tree, "of", lambda _scenario: longer)
    assert key(scenario, today) != usual
