"""One CSV of the user's own: schema, units, splits, prices (docs/data.md)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import envs
from envs.profiles import DayProfiles, Split, load_profiles, own_data, time_of_use_price
from envs.scenario import load_scenario

HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
OWN_COLUMNS = ("load_DSO", "load_MG1", "load_MG2", "load_MG3_mw", "pv_MG1", "pv_MG2", "pv_MG3_mw")
OWN_WIND = ("wind_MG1", "wind_MG2", "wind_MG3", "price")


def own_csv(folder: Path, *, days: int = 2, step: timedelta = HOUR, **columns: Callable[[int], object]) -> Path:
    """A CSV of the user's own for the default scenario; `columns` replaces or adds series (row number -> cell)."""
    cells: dict[str, Callable[[int], object]] = {name: lambda row: 0.2 for name in OWN_COLUMNS + OWN_WIND}
    cells["price"] = lambda row: 40 + row % 24
    cells |= columns
    start = datetime(2021, 3, 1)
    lines = [",".join(["time", *cells])]
    for row in range(days * (timedelta(days=1) // step)):
        lines.append(",".join([(start + row * step).isoformat(), *(str(cell(row)) for cell in cells.values())]))
    path = folder / "own.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def own_profiles(path: Path, price: str | None = None, **overrides: Any) -> DayProfiles:
    """What `--profiles` makes of a file, on the default scenario."""
    content = own_data(path, "ieee34_ieee13", price)
    content["data"] |= overrides.pop("data", {})
    return load_profiles(load_scenario("ieee34_ieee13", content | overrides))


def test_quarter_hours_become_hours_by_their_mean_and_a_warning_says_so(tmp_path: Path) -> None:
    path = own_csv(
        tmp_path, step=QUARTER, load_MG1=lambda row: row % 4, price=lambda row: 100 * (row // 4 % 2) + row % 4
    )
    with pytest.warns(
        UserWarning, match=r"a row every 0:15:00: 4 rows make a step of 1:00:00 \(mean of powers, shares"
    ):
        profiles = own_profiles(path)
    assert profiles.load[:, 1].unique().tolist() == [1.5]
    assert profiles.price[0, :2].tolist() == [5.0, 101.5]  # 1.5 is below the floor


def test_a_line_is_the_rows_own_after_averaging(tmp_path: Path) -> None:
    path = own_csv(tmp_path, step=QUARTER, pv_MG1=lambda row: 35.0 if 8 <= row < 12 else 0.5)
    with (
        pytest.warns(UserWarning, match="4 rows make a step"),
        pytest.raises(ValueError, match=r"line 10: pv_MG1 must be a share .*it looks like %"),
    ):
        own_profiles(path)


def test_hours_are_no_quarter_hours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has a row every 1:00:00, but a step .* is 0:15:00: .*; set dt_h to 1 "):
        own_profiles(own_csv(tmp_path), dt_h=0.25)


def test_hourly_prices_hold_for_their_quarter_hours(tmp_path: Path) -> None:
    path = tmp_path / "hourly.csv"
    start = datetime(2021, 3, 1)
    rows = [f"{(start + hour * HOUR).isoformat()},{hour}" for hour in range(48)]
    path.write_text("\n".join(["time,spot_usd_per_mwh", *rows]) + "\n")
    own = own_csv(tmp_path, step=QUARTER)
    profiles = own_profiles(own, dt_h=0.25, data={"prices": str(path), "price": "spot"})
    assert profiles.price[1, :5].tolist() == [24, 24, 24, 24, 25]


def test_one_file_gives_loads_plants_and_price(tmp_path: Path) -> None:
    path = own_csv(
        tmp_path,
        load_DSO=lambda row: 0.9,
        load_MG3_mw=lambda row: 0.1 + 0.01 * (row % 24),
        pv_MG3_mw=lambda row: 0.15,
        wind_MG2=lambda row: 0.7,
    )
    profiles = own_profiles(path)
    nominal_mw = 3.466 * 0.15  # the IEEE 13-bus loads at the scenario's scale
    assert profiles.load[0, 0].unique().tolist() == [0.9]
    assert profiles.load[1, 3, 7].item() == pytest.approx(0.17 / nominal_mw)
    assert profiles.renewables[0, :, 5].tolist() == pytest.approx([0.2, 0.2, 0.15 / 0.3, 0.2, 0.7, 0.2])
    assert profiles.price[1].tolist() == [40 + hour for hour in range(24)]
    assert profiles.weekday.tolist() == [0, 1]
    assert profiles.price_base is None


def test_one_file_runs_as_an_environment_in_mw(tmp_path: Path) -> None:
    zero = {name: lambda row: 0 for name in OWN_COLUMNS + OWN_WIND if name != "price"}
    path = own_csv(tmp_path, days=1, **{**zero, "load_MG3_mw": lambda row: 0.3, "pv_MG3_mw": lambda row: 0.12})
    env = envs.make(
        num_envs=1, dtype="float64", **own_data(path), episode={"load_factor": [1, 1], "renewable_factor": [1, 1]}
    )
    env.reset()
    env.step(env.idle_action().expand(env.action_shape))
    pcc_mw = env._grid_state.party_p_mw[0, 1:]
    assert pcc_mw[2].item() == pytest.approx(0.3 - 0.12, abs=0.01)  # and the losses
    assert pcc_mw[:2].abs().max() < 1e-3


def test_the_price_of_an_own_file_may_be_the_tariff_or_a_number(tmp_path: Path) -> None:
    path = own_csv(tmp_path)
    assert torch.equal(own_profiles(path, "tou").price, time_of_use_price(24).expand(2, -1))
    assert own_profiles(path, "55.5").price.unique().tolist() == [55.5]


def test_an_own_price_column_is_chosen_by_name(tmp_path: Path) -> None:
    path = own_csv(tmp_path, spot_usd_per_mwh=lambda row: 33)
    assert own_profiles(path, "spot").price.unique().tolist() == [33.0]
    with pytest.raises(ValueError, match=r"no column real_usd_per_mwh: add it, or set .* or choose one of spot"):
        own_data(path, price="real")


def without(path: Path, *names: str) -> Path:
    """The file with columns renamed out of the way."""
    header, rest = path.read_text().split("\n", 1)
    for name in names:
        header = header.replace(name, f"other_{name}")
    path.write_text(f"{header}\n{rest}")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "load_MG2",
            r"no load for MG2: add a column load_MG2 .* or load_MG2_mw; without them .*load_G2-A, load_lv_rural1",
        ),
        ("pv_MG1", r"no pv for MG1: add a column pv_MG1 .* or pv_MG1_mw; without them the scenario's PV1"),
        ("price", "no column price_usd_per_mwh: add it, or set the price to tou or a number"),
    ],
)
def test_what_an_own_file_lacks_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_data(without(own_csv(tmp_path), name))


def test_a_missing_own_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--profiles .*nowhere\.csv is missing"):
        own_data(tmp_path / "nowhere.csv")


def test_a_column_in_both_units_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has both load_MG1 and load_MG1_mw: remove one of them"):
        own_data(own_csv(tmp_path, load_MG1_mw=lambda row: 1.0))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("pv_MG1", 80, r"line 2: pv_MG1 must be a share .* got 80 \(at most 80\): it looks like %, divide the series"),
        ("wind_MG1", 4e5, r"wind_MG1 must be a share .*: it looks like W or kW"),
        ("wind_MG1", 1.2, r"wind_MG1 must be a share .* \(at most 1.2\): divide the series by its rated power"),
        ("wind_MG1", -0.1, "line 2: wind_MG1 must be a share"),
        ("pv_MG3_mw", 0.31, r"line 2: pv_MG3_mw must be in \[0, 0.3\] MW, MG3.pv.p_max_mw, got 0.31"),
        ("load_MG1", 350, r"line 2: load_profile of MG1 \(load_MG1\) reaches 350 times the nominal load, .*%, kW or W"),
        ("load_MG3_mw", 300, r"load_profile of MG3 \(load_MG3_mw\) reaches 577\.034 times the nominal load"),
        (
            "load_MG1",
            -0.1,
            "line 2: load_MG1 is a load and must not be negative, got -0.1; consumption counts positive",
        ),
        ("price", 0.08, r"line 2: price must be in \$/MWh, got at most 0.08, which looks like \$/kWh; multiply"),
        ("price", 80000, r"line 2: price must be in \$/MWh, got at most 80000"),
    ],
)
def test_other_units_and_signs_are_recognised(tmp_path: Path, column: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_profiles(own_csv(tmp_path, days=2, step=HOUR, **{column: lambda row: value}))


def test_a_load_by_any_name_must_not_be_negative(tmp_path: Path) -> None:
    path = own_csv(tmp_path, town=lambda row: -1.0 if row == 5 else 1.0)
    with pytest.raises(ValueError, match="line 7: town is a load and must not be negative, got -1"):
        own_profiles(path, feeder={"load_profile": {"town": 1.0}})


def test_a_column_in_kw_is_refused_by_its_name(tmp_path: Path) -> None:
    path = own_csv(tmp_path, town_kw=lambda row: 1.0)
    with pytest.raises(ValueError, match=r"column 'town_kw' of .* must be .* a name that ends in _mw, a power in MW"):
        own_profiles(path, feeder={"load_profile": {"town_kw": 1.0}})


def test_a_load_in_mw_needs_a_network_with_load(tmp_path: Path) -> None:
    content = own_data(own_csv(tmp_path))
    content["microgrids"]["MG3"]["load_scale"] = 0.0
    with pytest.raises(ValueError, match="load_profile of MG3: load_MG3_mw is in MW, but its network has no load"):
        load_profiles(load_scenario("ieee34_ieee13", content))


def test_a_plant_of_no_power_needs_no_column(tmp_path: Path) -> None:
    content = own_data(own_csv(tmp_path))
    content["microgrids"]["MG1"]["wind"] = {"p_max_mw": 0.0, "profile": "none"}
    assert load_profiles(load_scenario("ieee34_ieee13", content)).renewables[:, 3].unique().tolist() == [0.0]


def test_negative_prices_pass_where_the_floor_lets_them(tmp_path: Path) -> None:
    path = own_csv(tmp_path, price=lambda row: -30 if row < 3 else 300)
    assert own_profiles(path).price.unique().tolist() == [5.0, 250.0]
    wide = {"price_floor_usd_per_mwh": -20.0, "price_cap_usd_per_mwh": 1000.0}
    assert own_profiles(path, data=wide).price.unique().tolist() == [-20.0, 300.0]


def test_a_file_of_two_days_cannot_be_validated_or_tested(tmp_path: Path) -> None:
    profiles = own_profiles(own_csv(tmp_path))
    assert profiles.starts("train", "day") == [0, 1]
    message = "split 'test' holds no whole day: the data has only 2 days; test begins on day 28 .* and needs 29 days"
    with pytest.raises(ValueError, match=message):
        profiles.starts("test", "day")
    with pytest.raises(ValueError, match=r"split 'train' holds no whole week: .* needs 7 days"):
        profiles.starts("train", "week")


def test_labels_of_a_file_are_its_splits(tmp_path: Path) -> None:
    path = own_csv(tmp_path, days=4, split=lambda row: ["train", "test", "val", "train"][row // 24])
    profiles = own_profiles(path)
    assert profiles.split == ("train", "test", "val", "train")
    splits: tuple[Split, ...] = ("train", "val", "test")
    assert [profiles.starts(split, "day") for split in splits] == [[0, 3], [2], [1]]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("validation", "line 8: split must be one of train, val, test, got 'validation'"),
        ("test", "line 8: split must be the same all day, got 'train' and 'test'"),
    ],
)
def test_labels_are_known_and_change_at_midnight(tmp_path: Path, label: str, message: str) -> None:
    path = own_csv(tmp_path, split=lambda row: label if row == 6 else "train")
    with pytest.raises(ValueError, match=message):
        own_profiles(path)
