import gzip
import os
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandapower as pp
import pandas as pd
import pytest
import torch

import envs
from envs.power import Network, solve_power_flow
from envs.profiles import DayProfiles, load_profiles, read_series
from envs.scenario import load_scenario
from envs.sources.caiso import caiso_data
from envs.sources.simbench_grid import (
    BusInjections,
    bus_injections,
    get_simbench,
    profile_columns,
    standard_times,
    write_grid,
)
from envs.tariff import demand_charge, pool_settlement, terminal_cost, utility_bill

REAL = Path(os.environ.get("CAISO_FILE", "not given"))
CAISO_COLUMNS = (
    *("load_BANC", "load_PGE-TAC", "load_CA_ISO-TAC", "solar_NP15", "solar_SP15", "wind_NP15", "wind_SP15"),
    "lmp_usd_per_mwh",
)
CODE = "1-MV-test--0-sw"


def caiso_file(folder: Path, *, columns: tuple[str, ...] = CAISO_COLUMNS, days: int = 70) -> Path:
    """A packed file of the same format: 35 days of training, then test; a negative and a very high price each day."""
    start, rng = datetime(2023, 11, 27, 8), np.random.default_rng(0)
    lines = [",".join(["time_utc", "split", *columns])]
    for hour in range(24 * days):
        cells = [f"{value:.4f}" for value in rng.uniform(0.1, 0.9, len(columns) - 1)]
        price = {11: -56.5, 18: 1099.8}.get(hour % 24, 40.0)
        time = (start + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%MZ")
        lines.append(",".join([time, "train" if hour < 24 * 35 else "test", *cells, f"{price}"]))
    path = folder / "caiso.csv.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return path


def caiso_profiles(path: Path, floor: float = 5.0, cap: float = 250.0) -> DayProfiles:
    content = caiso_data(path, price_floor_usd_per_mwh=floor, price_cap_usd_per_mwh=cap)
    return load_profiles(load_scenario("ieee34_ieee13", content))


def test_caiso_days_begin_at_pacific_midnight_and_keep_their_split(tmp_path: Path) -> None:
    profiles = caiso_profiles(caiso_file(tmp_path))
    assert (profiles.first_date.isoformat(), profiles.num_days) == ("2023-11-27T00:00:00-08:00", 70)
    assert profiles.weekday[:2].tolist() == [0, 1]
    assert profiles.starts("test", "day") == list(range(35, 70))
    assert profiles.starts("val", "day") == list(range(21, 28))
    assert len(profiles.starts("train", "day")) == 28
    assert profiles.starts("test", "week") == [35, 42, 49, 56, 63]


def test_caiso_columns_go_to_feeder_and_microgrids_in_turn(tmp_path: Path) -> None:
    path = caiso_file(tmp_path)
    profiles, series = caiso_profiles(path), read_series(str(path), "", timedelta(hours=1))
    loads = ("load_CA_ISO-TAC", "load_BANC", "load_PGE-TAC", "load_BANC")
    plants = ("solar_NP15", "solar_SP15", "solar_NP15", "wind_NP15", "wind_SP15", "wind_NP15")
    hour = 50
    assert profiles.load[2, :, 2].tolist() == pytest.approx([0.75 * float(series.column(c)[hour]) for c in loads])
    assert profiles.renewables[2, :, 2].tolist() == pytest.approx([float(series.column(c)[hour]) for c in plants])


def test_caiso_prices_are_cut_to_floor_and_cap_unless_these_are_wider(tmp_path: Path) -> None:
    path = caiso_file(tmp_path)
    default = load_profiles(load_scenario("ieee34_ieee13", caiso_data(path)))
    assert default.price.unique().tolist() == [5.0, 40.0, 250.0]
    wide = caiso_profiles(path, -60.0, 2000.0)
    assert wide.price.unique().tolist() == [-56.5, 40.0, 1099.8]
    assert wide.price_base is None  # no noise in training


def test_an_env_runs_a_day_of_negative_prices(tmp_path: Path) -> None:
    content = caiso_data(caiso_file(tmp_path), price_floor_usd_per_mwh=-60.0, price_cap_usd_per_mwh=2000.0)
    env = envs.make(num_envs=2, dtype="float64", seed=1, **content)
    env.reset()
    price = env.situation().today.price
    for hour in range(23):  # the last step would start another day
        step = env.step(env.idle_action().expand(env.action_shape))
        head_mw = env._grid_state.head_p_mw
        bill = utility_bill(head_mw, price[:, hour], export_share=0.5, dt_h=1.0)
        assert torch.allclose(step.metrics["energy_usd"], bill)
    assert (price[:, 11] == -56.5).all()


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no column lmp_usd_per_mwh, which a CAISO-style file has; columns are"):
        caiso_data(caiso_file(tmp_path, columns=(*CAISO_COLUMNS[:-1], "price")))
    with pytest.raises(ValueError, match=r"has no column wind_\.\.\., which a CAISO-style file has"):
        caiso_data(caiso_file(tmp_path, columns=(*CAISO_COLUMNS[:5], "lmp_usd_per_mwh")))
    with pytest.raises(ValueError, match=r"CAISO-style file .*nowhere\.csv is missing: give its path"):
        caiso_data(tmp_path / "nowhere.csv")


@pytest.mark.skipif(not REAL.is_file(), reason="the file is not shipped; CAISO_FILE=<its path> runs this")
def test_the_real_file_is_two_years_with_prices_beyond_floor_and_cap() -> None:
    profiles = caiso_profiles(REAL, -1000.0, 5000.0)
    assert (profiles.first_date.isoformat(), profiles.num_days) == ("2023-01-01T00:00:00-08:00", 731)
    assert [len(profiles.starts(split, "day")) for split in ("train", "val", "test")] == [295, 70, 366]
    assert (profiles.price.min().item(), profiles.price.max().item()) == (-56.549, 1099.8)
    # noon in California has sun, midnight has none
    sun = profiles.renewables[:, :3].mean((0, 1))
    assert sun[12] > 0.6
    assert sun[0] < 0.005


def test_a_negative_price_pays_for_import_and_costs_for_export() -> None:
    head = utility_bill(
        torch.tensor([2.0, -2.0]).double(), torch.tensor([-40.0, -40.0]).double(), export_share=0.5, dt_h=1.0
    )
    assert head.tolist() == [-80.0, 40.0]


def test_the_pool_balances_at_negative_prices_but_leaves_both_sides_worse_off() -> None:
    rng = torch.Generator().manual_seed(2)
    p_mw = 4 * torch.rand(500, 4, generator=rng, dtype=torch.float64) - 2
    price = -100 * torch.rand(500, generator=rng, dtype=torch.float64)
    parts = pool_settlement(p_mw, price, export_share=0.5, pool_share=0.75, dt_h=1.0)
    assert (parts.sum(-1) - utility_bill(p_mw.sum(-1), price, export_share=0.5, dt_h=1.0)).abs().max() < 1e-9
    alone = utility_bill(p_mw, price, export_share=0.5, dt_h=1.0)
    assert (parts >= alone - 1e-12).all()
    assert (parts > alone + 1.0).any()


def test_peak_and_terminal_rule_do_not_turn_negative_with_the_price() -> None:
    usd = terminal_cost(
        torch.tensor([[0.4]]), torch.tensor([[1.0]]), torch.tensor([-56.5]), factor=1.1, adder_usd_per_mwh=10.0
    )
    assert usd.item() == pytest.approx(0.6 * 10)
    charge, _ = demand_charge(torch.tensor([[2.0]]), torch.tensor([2.0]), torch.tensor([0.0]), usd_per_mw=100.0)
    assert charge.item() == 200.0  # the price is no part of it


def small_grid(*, days: int = 1) -> Any:
    """A 20 kV line with three loads, PV and wind in SimBench's format, with profiles of quarter hours."""
    net = pp.create_empty_network(f_hz=50.0)
    buses = [pp.create_bus(net, vn_kv=20.0) for _ in range(4)]
    pp.create_ext_grid(net, buses[0], vm_pu=1.025)
    for one, two in pairwise(buses):
        pp.create_line_from_parameters(
            net, one, two, length_km=2.0, r_ohm_per_km=0.3, x_ohm_per_km=0.12, c_nf_per_km=250.0, max_i_ka=0.3
        )
    pp.create_load(net, buses[1], p_mw=0.6, q_mvar=0.2)
    pp.create_load(net, buses[2], p_mw=0.3, q_mvar=0.1)
    pp.create_load(net, buses[3], p_mw=0.2, q_mvar=0.05, in_service=False)
    pp.create_load(net, buses[3], p_mw=0.5, q_mvar=0.1, scaling=0.6)
    pp.create_sgen(net, buses[2], p_mw=0.4)
    pp.create_sgen(net, buses[3], p_mw=0.2)
    pp.create_sgen(net, buses[3], p_mw=0.3)
    net.load["profile"], net.sgen["profile"] = ["H0-A", "G1-B", "H0-A", "G1-B"], ["PV1", "PV4", "WP2"]
    steps = np.arange(96 * days)
    clock = [(datetime(2016, 1, 1) + timedelta(minutes=15 * int(k))).strftime("%d.%m.%Y %H:%M") for k in steps]
    wave: Callable[[float], Any] = lambda phase: 0.5 + 0.4 * np.sin(2 * np.pi * steps / 96 + phase)  # noqa: E731
    loads = {
        f"{name}_{kind}load": wave(i)
        for i, (name, kind) in enumerate([("H0-A", "p"), ("H0-A", "q"), ("G1-B", "p"), ("G1-B", "q")])
    }
    net["profiles"] = {
        "load": pd.DataFrame({"time": clock, **loads}),
        "renewables": pd.DataFrame({"time": clock, "PV1": wave(4), "PV4": wave(5), "WP2": wave(6)}),
        "powerplants": pd.DataFrame({"time": clock}),
        "storage": pd.DataFrame({"time": clock}),
    }
    return net


def injections_of(net: Any) -> tuple[Network, BusInjections]:
    network = Network.from_pandapower(net)
    return network, bus_injections(net, network)


def test_mean_profiles_weigh_elements_in_service_by_rated_power() -> None:
    net = small_grid()
    columns = profile_columns(net)
    load, plants = net.profiles["load"], net.profiles["renewables"]
    total = 0.6 + 0.3 + 0.5 * 0.6
    assert columns["load_all"] == pytest.approx((0.6 * load["H0-A_pload"] + 0.6 * load["G1-B_pload"]) / total)
    assert columns["pv_all"] == pytest.approx((0.4 * plants["PV1"] + 0.2 * plants["PV4"]) / 0.6)
    assert columns["wind_all"] == pytest.approx(plants["WP2"])
    assert list(columns) == ["load_all", "pv_all", "wind_all", "load_G1-B", "load_H0-A", "PV1", "PV4", "WP2"]


def test_a_wind_profile_that_falls_below_nothing_is_cut_to_it() -> None:
    net = small_grid()
    net.profiles["renewables"].loc[3, "WP2"] = -1e-5  # as WP4 of SimBench
    columns = profile_columns(net)
    assert columns["wind_all"][3] == columns["WP2"][3] == 0.0
    assert (columns["WP2"] >= 0).all()
    assert net.profiles["renewables"].loc[3, "WP2"] == -1e-5


def test_every_element_follows_its_own_profile() -> None:
    net = small_grid()
    network, injections = injections_of(net)
    load, plants = net.profiles["load"], net.profiles["renewables"]
    at = [network.alias[bus] for bus in range(4)]
    assert injections.p_mw.shape == (96, 4)
    assert injections.p_mw[:, at[0]].tolist() == [0.0] * 96
    assert injections.p_mw[:, at[1]].tolist() == pytest.approx((-0.6 * load["H0-A_pload"]).tolist())
    assert injections.q_mvar[:, at[2]].tolist() == pytest.approx((-0.1 * load["G1-B_qload"]).tolist())
    expected = 0.2 * plants["PV4"] + 0.3 * plants["WP2"] - 0.6 * 0.5 * load["G1-B_pload"]
    assert injections.p_mw[:, at[3]].tolist() == pytest.approx(expected.tolist())


def test_a_quarter_hours_flow_is_pandapowers() -> None:
    net = small_grid()
    network, injections = injections_of(net)
    flow = solve_power_flow(network, injections.p_mw, injections.q_mvar, tolerance_pu=1e-11)
    assert flow.converged.all()
    step = 37
    for table, suffixes in (("load", ("_pload", "_qload")), ("sgen", ("", None))):
        source = net.profiles["load" if table == "load" else "renewables"]
        for column, suffix in zip(("p_mw", "q_mvar"), suffixes, strict=True):
            if suffix is not None:
                net[table][column] *= [source[name + suffix][step] for name in net[table].profile]
    pp.runpp(net, tolerance_mva=1e-10)
    assert abs(flow.v_pu[step]).tolist() == pytest.approx(
        [net.res_bus.vm_pu[bus] for bus in network.bus_index], abs=1e-8
    )


def test_a_written_grid_is_read_back(tmp_path: Path) -> None:
    net = small_grid(days=2)
    keys = write_grid(net, tmp_path / "grid", CODE)
    assert net.sgen.in_service.all()  # the given net is as it was
    assert "load" in net.profiles
    series = read_series(keys["data"]["profiles"], "", timedelta(minutes=15))
    assert series.start.isoformat() == "2016-01-01T00:00:00+01:00"
    assert series.column("load_all").tolist() == pytest.approx(profile_columns(net)["load_all"].tolist())
    network = Network.from_pandapower(pp.from_json(keys["feeder"]["network"]))
    assert network.generation_p_mw.abs().sum() == 0
    assert network.load_p_mw.sum().item() == pytest.approx(1.2)
    assert keys["feeder"]["slack_v_pu"] == 1.025
    assert CODE in (tmp_path / "grid" / "NOTICE.txt").read_text()


def test_times_count_evenly_over_daylight_saving() -> None:
    hours = [*range(2), *range(3, 24)]
    clock = [f"27.03.2016 {hour:02}:{quarter:02}" for hour in hours for quarter in (0, 15, 30, 45)]
    autumn = [
        f"30.10.2016 {hour:02}:{quarter:02}" for hour in (0, 1, 2, 2, *range(3, 24)) for quarter in (0, 15, 30, 45)
    ]
    with pytest.raises(ValueError, match="must hold whole days from midnight, got 92 rows"):
        standard_times(clock)
    days = [
        f"{day:02}.03.2016 {hour:02}:{q:02}" for day in range(28, 32) for hour in range(24) for q in (0, 15, 30, 45)
    ]
    with pytest.raises(
        ValueError, match=r"row 192: times must advance by 0:15:00, got 2016-03-29 23:45:00 -> 2016-03-31"
    ):
        standard_times(days[:192] + days[288:])
    with pytest.raises(ValueError, match="whole days from midnight, got 100 rows"):
        standard_times(autumn)
    times = standard_times(days)
    assert (times[96].isoformat(), len(times)) == ("2016-03-29T00:00:00+01:00", 384)


def test_a_year_of_local_time_holds_its_days() -> None:
    spring = [f"27.03.2016 {hour:02}:{q:02}" for hour in (0, 1, *range(3, 24)) for q in (0, 15, 30, 45)]
    autumn = [f"28.03.2016 {hour:02}:{q:02}" for hour in (0, 1, 2, 2, *range(3, 24)) for q in (0, 15, 30, 45)]
    times = standard_times(spring + autumn)
    assert {later - time for time, later in pairwise(times)} == {timedelta(minutes=15)}
    assert times[-1].isoformat() == "2016-03-28T23:45:00+01:00"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda net: pp.create_storage(net, 1, p_mw=0.1, max_e_mwh=1.0),
            "the grid has 1 storages: take one of scenario 0",
        ),
        (lambda net: net.load.drop(columns="profile", inplace=True), "every load needs a `profile`"),
        (
            lambda net: net.profiles["load"].drop(columns="G1-B_pload", inplace=True),
            "profile 'G1-B_pload' of a load is not",
        ),
        (lambda net: net.load.__setitem__("in_service", False), "no active power: there is no mean profile"),
        (lambda net: net.pop("profiles"), r"the net has no net.profiles\['load'\]: get it by simbench"),
    ],
)
def test_a_grid_that_is_not_simbenchs_is_named(tmp_path: Path, spoil: Callable[[Any], Any], message: str) -> None:
    net = small_grid()
    spoil(net)
    with pytest.raises(ValueError, match=message):
        write_grid(net, tmp_path, CODE)


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simbench", None)
    with pytest.raises(ValueError, match=r"need the extra `simbench`: pip install .*\[simbench\]"):
        get_simbench("1-MV-rural--0-sw")


@pytest.mark.slow
def test_bus_injections_are_simbenchs_absolute_values() -> None:
    simbench = pytest.importorskip("simbench")
    net = get_simbench("1-LV-rural1--0-sw")
    network, injections = injections_of(net)
    absolute = simbench.get_absolute_values(net, profiles_instead_of_study_cases=True)
    p_mw = absolute["sgen", "p_mw"].sum(axis=1) - absolute["load", "p_mw"].sum(axis=1)
    assert injections.p_mw.sum(1).numpy() == pytest.approx(p_mw.to_numpy())
    assert len(injections.times) == 35136
    assert network.num_buses > 10
    with pytest.raises(ValueError, match="SimBench code 'nothing' is unknown"):
        get_simbench("nothing")
