import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor

import envs
from envs.profiles import (
    MARKET_LOAD,
    PV_COLUMNS,
    WIND_COLUMNS,
    Split,
    labelled_split,
    load_profiles,
    price_base,
    read_series,
    starts_of,
    time_of_use_price,
    weekly_split,
)
from envs.scenario import DATA, Scenario, load_scenario

HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)


def day_csv(folder: Path, *, header: str = "time,load_a", edit: dict[int, str] | None = None, rows: int = 24) -> Path:
    """A CSV of one day; `edit` replaces whole lines by their number (the header is line 1)."""
    start = datetime(2020, 1, 1)
    lines = [header] + [f"{(start + t * HOUR).isoformat()},{0.5 + 0.01 * t}" for t in range(rows)]
    for number, text in (edit or {}).items():
        lines[number - 1] = text
    path = folder / "series.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def shipped_price() -> Tensor:
    return read_series("price_2016", "_hourly", HOUR).column("synthetic_usd_per_mwh")


def shipped_base() -> Tensor:
    series = read_series("simbench_2016", "_hourly", HOUR)
    parts = [torch.stack([series.column(c) for c in names]).mean(0) for names in (PV_COLUMNS, WIND_COLUMNS)]
    return price_base(series.column(MARKET_LOAD), *parts)


def test_shipped_price_has_the_documented_statistics() -> None:
    price = shipped_price()
    assert len(price) == 8784
    assert price.mean().item() == pytest.approx(59.2, abs=0.05)
    assert price.std().item() == pytest.approx(27.4, abs=0.05)
    assert price.min().item() == 5.0
    assert price.max().item() == pytest.approx(192, abs=0.5)
    by_day = price.view(366, 24).sort(1).values
    assert (by_day[:, -4:].mean(1) - by_day[:, :4].mean(1)).mean().item() == pytest.approx(57.4, abs=0.05)


def test_shipped_price_is_the_formula_plus_noise_that_starts_at_zero() -> None:
    price, base = shipped_price(), shipped_base()
    noise = (price - base)[price > 5.0]
    assert price[0].item() == pytest.approx(base[0].item(), abs=1e-4)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.5)
    assert noise.std().item() == pytest.approx(4.5, abs=0.15)
    assert torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1].item() == pytest.approx(0.92, abs=0.01)


def test_price_formula_by_hand() -> None:
    load = torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)  # mean 3, x = 1/3, 2/3, 1, 2
    none = torch.ones(4, dtype=torch.float64)  # shifts x and leaves z
    z = (torch.tensor([1, 2, 3, 6]) / 3 - 1) / ((4 / 9 + 1 / 9 + 0 + 1) / 4) ** 0.5
    expected = (58 + 28 * z).tolist()
    expected[3] += 9 * (z[3].item() - 1) ** 2
    assert price_base(load, none, none).tolist() == pytest.approx(expected)


def test_sun_and_wind_lower_the_price() -> None:
    load = torch.ones(3, dtype=torch.float64)
    windy = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    base = price_base(load, torch.full_like(load, 0.2), windy)
    assert base[2] < base[0] == base[1]


def test_time_of_use_price_is_the_documented_one() -> None:
    price = load_profiles(load_scenario("ieee34_ieee13", {"data": {"price": "tou"}})).price
    expected = [38] * 6 + [68] * 4 + [45] * 6 + [115] * 5 + [68] + [38] * 2
    assert price.tolist() == [expected] * 366
    assert time_of_use_price(24).tolist() == expected


def test_time_of_use_rule_is_the_packaged_column_in_every_hour() -> None:
    packaged = read_series("price_2016", "_hourly", HOUR).column("tou_usd_per_mwh")
    assert torch.equal(time_of_use_price(24).repeat(366), packaged)


def test_time_of_use_price_changes_on_the_hour_in_quarter_hours() -> None:
    assert torch.equal(time_of_use_price(96), time_of_use_price(24).repeat_interleave(4))


def test_a_number_is_a_constant_price() -> None:
    price = load_profiles(load_scenario("ieee34_ieee13", {"data": {"price": 80}})).price
    assert price.shape == (366, 24)
    assert price.unique().tolist() == [80.0]


def test_quarter_hours_average_to_the_hours(scenario: Scenario) -> None:
    hourly = load_profiles(scenario)
    quarter = load_profiles(load_scenario("ieee34_ieee13", {"dt_h": 0.25}))
    for name in ("load", "renewables"):
        fine, coarse = getattr(quarter, name), getattr(hourly, name)
        assert (fine.unflatten(-1, (24, 4)).mean(-1) - coarse).abs().max() < 1e-3
    assert torch.equal(quarter.price[:, ::4], hourly.price)
    assert quarter.price_base is not None
    assert hourly.price_base is not None
    assert (quarter.price_base[:, ::4] - hourly.price_base).abs().max() < 0.05


def test_load_multipliers_are_the_weighted_columns(scenario: Scenario) -> None:
    profiles = load_profiles(scenario)
    series = read_series("simbench_2016", "_hourly", HOUR)
    day, hour = 200, 13
    row = {name: float(values[day * 24 + hour]) for name, values in series.columns.items()}
    expected = [
        row["load_mv_semiurb"] / 0.427,
        0.45 * row["load_G1-B"] + 0.55 * row["load_mv_comm"] / 0.436,
        0.5 * row["load_G2-A"] + 0.5 * row["load_lv_rural1"] / 0.945,
        0.4 * row["load_L2-A"] + 0.6 * row["load_mv_rural"] / 0.439,
    ]
    assert profiles.load[day, :, hour].tolist() == pytest.approx(expected)
    plants = [row[name] for name in ("PV1", "PV2", "PV7", "WP3", "WP12", "WP5")]
    assert profiles.renewables[day, :, hour].tolist() == pytest.approx(plants)


def test_days_of_the_week_are_the_calendars(scenario: Scenario) -> None:
    weekday = load_profiles(scenario).weekday
    dates = [datetime(2016, 1, 1) + timedelta(days=d) for d in range(366)]
    assert weekday.tolist() == [date.weekday() for date in dates]


def test_splits_are_whole_weeks_that_cover_the_year_once() -> None:
    days: dict[Split, list[int]] = {
        name: starts_of(weekly_split(366), name, "day") for name in ("train", "val", "test")
    }
    assert [len(days[name]) for name in days] == [226, 70, 70]
    assert sorted(day for split in days.values() for day in split) == list(range(366))
    assert {day // 7 % 5 for day in days["test"]} == {4}
    assert {day // 7 % 5 for day in days["val"]} == {3}
    weeks = starts_of(weekly_split(366), "train", "week")
    assert all(day % 7 == 0 and set(range(day, day + 7)) <= set(days["train"]) for day in weeks)
    assert len(weeks) == 32


def test_a_split_without_a_whole_week_is_an_error() -> None:
    with pytest.raises(ValueError, match="split 'val' holds no whole week: the data has only 24 days"):
        starts_of(weekly_split(24), "val", "week")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({4: "2020-01-01T01:00:00,0.5"}, r"line 4: times must advance by 1:00:00, got .*\(duplicate\)"),
        ({4: "2019-01-01T01:00:00,0.5"}, r"line 4: times must advance .*\(unordered\)"),
        ({4: "2020-01-01T05:00:00,0.5"}, r"line 4: times must advance .*\(unordered\); sort the rows"),
        ({5: "2020-01-01T03:00:00,-0.5"}, r"line 5: load_a is a load and must not be negative, got -0.5"),
        ({6: "noon,0.5"}, "line 6: Invalid isoformat string: 'noon'"),
        ({6: "2020-01-01T04:00:00+01:00,0.5"}, "line 6: write all times with a UTC offset or none"),
        ({1: "date,load_a"}, r"^data file [^ ]*series\.csv line 1: the first column must be 'time' .*, got .'date'"),
        ({1: "time;load_a"}, "line 1: the first column must be 'time' .*; separate cells by commas"),
        ({1: "time,"}, "line 1: a column has no name: give every column a name of its own"),
    ],
)
def test_damaged_rows_are_named_with_their_line(tmp_path: Path, edit: dict[int, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_series(str(day_csv(tmp_path, edit=edit)), "", HOUR)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("high", "line 6: load_a: could not convert string to float: 'high'; write numbers like 0.25"),
        ("", "line 6: load_a is empty; fill every gap"),
        ("0.5,7", "line 6: expected 2 cells, got 3"),
    ],
)
def test_damaged_cells_are_named_with_their_line(tmp_path: Path, cells: str, message: str) -> None:
    path = day_csv(tmp_path, edit={6: f"2020-01-01T04:00:00,{cells}"})
    with pytest.raises(ValueError, match=message):
        read_series(str(path), "", HOUR)


@pytest.mark.parametrize("cell", ["nan", "inf"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, cell: str) -> None:
    path = day_csv(tmp_path, edit={5: f"2020-01-01T03:00:00,{cell}"})
    with pytest.raises(ValueError, match=f"line 5: load_a must be a finite number, got '{cell}'"):
        read_series(str(path), "", HOUR)


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    path = day_csv(tmp_path, header="\ufefftime,load_a")
    assert list(read_series(str(path), "", HOUR).columns) == ["load_a"]


@pytest.mark.parametrize("own", ["prices", "profiles"])
def test_a_file_of_ones_own_has_no_price_noise(tmp_path: Path, own: str) -> None:
    packaged = {"prices": "price_2016", "profiles": "simbench_2016"}[own]
    content = gzip.decompress((DATA / "profiles" / f"{packaged}_hourly.csv.gz").read_bytes())
    (tmp_path / "mine.csv").write_bytes(content)
    profiles = load_profiles(load_scenario("ieee34_ieee13", {"data": {own: str(tmp_path / "mine.csv")}}))
    assert profiles.price_base is None
    env = envs.make(num_envs=8, seed=1, data={own: str(tmp_path / "mine.csv")})
    env.reset()
    assert torch.equal(env._today.price.T.double(), profiles.price[env.day].float().double())


def test_an_empty_line_is_named(tmp_path: Path) -> None:
    path = day_csv(tmp_path, edit={5: ""})
    with pytest.raises(ValueError, match="line 5: "):
        read_series(str(path), "", HOUR)


def test_a_series_holds_whole_days(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must start at midnight and hold whole days, got 23 rows"):
        read_series(str(day_csv(tmp_path, rows=23)), "", HOUR)
    with pytest.raises(ValueError, match="holds no rows"):
        read_series(str(day_csv(tmp_path, rows=0)), "", HOUR)


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data file 'nowhere' is missing: give a packaged name or the path"):
        read_series("nowhere", "_hourly", HOUR)
    series = read_series(str(day_csv(tmp_path)), "", HOUR)
    assert series.column("load_a")[3].item() == 0.53
    message = r"column 'load_b' is not in .*series\.csv; columns are load_a; did you mean 'load_a'\?"
    with pytest.raises(ValueError, match=message):
        series.column("load_b")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "series.csv.gz"
    whole = gzip.compress(day_csv(tmp_path).read_bytes())
    for damaged in (whole[: len(whole) // 2], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"series\.csv\.gz cannot be read .*restore the file"):
            read_series(str(path), "", HOUR)


def test_series_must_cover_the_same_days(tmp_path: Path) -> None:
    path = day_csv(tmp_path, header="time,synthetic_usd_per_mwh")
    with pytest.raises(ValueError, match=r"has 1 days and .* 8784 steps: they must cover the same days"):
        envs.make(data={"prices": str(path)})


def test_an_unknown_profile_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"column 'PV9' is not in .*; columns are load_mv_semiurb"):
        envs.make(microgrids={"MG1": {"pv": {"profile": "PV9"}}})


def test_a_column_name_given_twice_is_an_error(tmp_path: Path) -> None:
    path = day_csv(tmp_path, header="time,load_a,load_a")
    with pytest.raises(ValueError, match="line 1: 'load_a' is the name of two columns"):
        read_series(str(path), "", HOUR)


def clock_csv(folder: Path, *times: datetime, header: str = "time") -> Path:
    path = folder / "clock.csv"
    path.write_text("\n".join([f"{header},load_a", *(f"{time.isoformat()},0.5" for time in times)]) + "\n")
    return path


@pytest.mark.parametrize(
    ("first", "skipped", "line", "kind"),
    [
        (datetime(2021, 3, 28), [2], 4, "gap, as daylight saving makes it"),
        (datetime(2021, 10, 31), [], 5, "duplicate, as daylight saving makes it"),
    ],
)
def test_daylight_saving_is_named(tmp_path: Path, first: datetime, skipped: list[int], line: int, kind: str) -> None:
    hours = [hour for hour in range(24) if hour not in skipped]
    if not skipped:
        hours.insert(3, 2)  # 02:00 comes twice
    path = clock_csv(tmp_path, *(first + hour * HOUR for hour in hours))
    with pytest.raises(ValueError, match=rf"line {line}: times must advance by 1:00:00, .*\({kind}\); write them in"):
        read_series(str(path), "", HOUR)


def test_utc_offsets_carry_a_series_over_daylight_saving(tmp_path: Path) -> None:
    lines = ["time,load_a"]
    instant = datetime(2021, 3, 27, 23, tzinfo=UTC)
    for hour in range(24):
        summer = instant + hour * HOUR >= datetime(2021, 3, 28, 1, tzinfo=UTC)
        local = (instant + hour * HOUR).replace(tzinfo=None) + (2 if summer else 1) * HOUR
        lines.append(f"{local.isoformat()}+0{2 if summer else 1}:00,{hour}")
    path = tmp_path / "offsets.csv"
    path.write_text("\n".join(lines) + "\n")
    assert read_series(str(path), "", HOUR).column("load_a").tolist() == list(range(24))


@pytest.mark.parametrize(("first_hour", "date", "offset_h"), [(8, 5, -8), (0, 5, 0), (23, 6, 1)])
def test_a_utc_column_counts_days_from_its_first_row(tmp_path: Path, first_hour: int, date: int, offset_h: int) -> None:
    start = datetime(2023, 6, 5, first_hour)
    path = clock_csv(tmp_path, *(start + hour * HOUR for hour in range(24)), header="time_utc")
    first = read_series(str(path), "", HOUR).start
    assert (first.day, first.hour) == (date, 0)
    assert first.utcoffset() == offset_h * HOUR
    path = clock_csv(tmp_path, *((start + hour * HOUR).replace(tzinfo=UTC) for hour in range(24)))
    if first_hour:  # a column `time` is taken at its word
        with pytest.raises(ValueError, match=r"must start at midnight .*a `time_utc` column count from its first row"):
            read_series(str(path), "", HOUR)


def test_rows_that_fit_no_step_are_an_error(tmp_path: Path) -> None:
    path = clock_csv(tmp_path, *(datetime(2021, 1, 1) + k * timedelta(minutes=40) for k in range(36)))
    with pytest.raises(ValueError, match="a row every 0:40:00, which does not fit into steps of 1:00:00"):
        read_series(str(path), "", HOUR)


def test_prices_need_a_file_only_when_they_are_a_column() -> None:
    message = "data: prices is missing, and price: spot is a column: set prices to .*, or price to tou or a number"
    with pytest.raises(ValueError, match=message):
        load_scenario("ieee34_ieee13", {"data": {"prices": None, "price": "spot"}})
    for price in ("tou", "45"):
        without = load_profiles(load_scenario("ieee34_ieee13", {"data": {"prices": None, "price": price}}))
        assert torch.equal(
            without.price, load_profiles(load_scenario("ieee34_ieee13", {"data": {"price": price}})).price
        )


def test_a_file_shorter_than_a_day_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"whole days, got 6 rows from .*, 0.25 days; give 24 rows a day"):
        read_series(str(day_csv(tmp_path, rows=6)), "", HOUR)


def test_labels_without_validation_give_it_each_fifth_week_of_training() -> None:
    train: list[Split] = ["train"]
    test: list[Split] = ["test"]
    years = labelled_split(train * 365 + test * 366)
    assert [years.count(split) for split in ("train", "val", "test")] == [295, 70, 366]
    assert all(day // 7 % 5 == 3 and day < 365 for day, split in enumerate(years) if split == "val")
    assert labelled_split(["train", "val", "test"]) == ("train", "val", "test")


def test_packaged_data_are_split_by_week(scenario: Scenario) -> None:
    profiles = load_profiles(scenario)
    assert profiles.split == weekly_split(366)
    assert profiles.starts("val", "week") == starts_of(weekly_split(366), "val", "week")
