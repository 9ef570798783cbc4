"""Bad input of every kind: one line that names key, rule, value and remedy, before anything runs or is written."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pandapower as pp
import pytest
import yaml

import envs
from envs.scenario import DATA
from envs.scenario_file import merged

ROOT = Path(__file__).parents[2]
COLUMNS = ("load_DSO", "load_MG1", "load_MG2", "pv_MG1", "pv_MG2", "wind_MG1", "wind_MG2", "price")
Rows = list[list[Any]]
Case = tuple[Mapping[str, Any], Sequence[str]]


def of_mg1(**keys: Any) -> dict[str, Any]:
    return {"microgrids": {"MG1": keys}}


def battery(**keys: Any) -> dict[str, Any]:
    return of_mg1(battery=keys)


def consensus(edges: Any) -> dict[str, Any]:
    return {"protocols": {"horizontal": "consensus", "consensus": {"edges": edges}}}


def setpoint(**keys: Any) -> dict[str, Any]:
    return {"protocols": {"vertical": "setpoint", "setpoint": keys}}


KEYS: dict[str, Case] = {
    "unknown key": (battery(capacity=2.0), ["unknown key 'microgrids.MG1.battery.capacity'", "correct its spelling"]),
    "missing key": ({"microgrids": {"MG3": {"bus": "3"}}}, ["key 'microgrids.MG3.network' is missing", "add it"]),
    "negative capacity": (
        battery(energy_max_mwh=-2.0),
        ["microgrids.MG1.battery.energy_max_mwh", "greater than 0", "-2.0", "correct its sign"],
    ),
    "negative power": (of_mg1(pv={"p_max_mw": -0.3}), ["MG1.pv.p_max_mw", "or equal to 0", "-0.3", "its sign"]),
    "negative in quotes": (of_mg1(pv={"p_max_mw": "-1"}), ["MG1.pv.p_max_mw", "or equal to 0", "'-1'", "its sign"]),
    "negative price": (
        {"tariff": {"demand_charge_usd_per_mw": -1}},
        ["tariff.demand_charge_usd_per_mw", "or equal to 0", "-1", "its sign"],
    ),
    "kWh": (battery(energy_max_mwh=2000), ["MG1.battery.energy_max_mwh", "at most 1000", "kWh", "divide", "2000"]),
    "kW": (
        battery(p_max_mw=500, s_max_mva=600),
        ["MG1.battery.p_max_mw", "at most 20 times the 1 MVA", "500", "looks like kW, divide it by 1000"],
    ),
    "V": (of_mg1(connection_kv=12470), ["MG1.connection_kv", "at most 1000", "looks like V", "12470"]),
    "percent": ({"feeder": {"slack_v_pu": 102}}, ["feeder.slack_v_pu", "at most 2", "kV or %", "102"]),
    "unit in a text": (battery(p_max_mw="500 kW"), ["MG1.battery.p_max_mw", "a number without unit", "'500 kW'"]),
    "efficiency": (battery(efficiency=1.1), ["MG1.battery.efficiency", "at most 1", "98 % is 0.98", "1.1"]),
    "SOC at the start": (
        {"episode": {"initial_energy_mwh": 5.0}},
        ["episode.initial_energy_mwh", "within MG1's battery [0.2, 2.0] MWh", "5.0"],
    ),
    "SOC in training": (
        {"episode": {"training_initial_energy_mwh": [0.1, 1.4]}},
        ["episode.training_initial_energy_mwh", "[0.2, 2.0] MWh", "0.1"],
    ),
    "SOC bounds": (battery(energy_min_mwh=2.5), ["MG1.battery", "energy_min_mwh must be below", "2.5 and 2.0"]),
    "device on no bus": (battery(bus="prk"), ["microgrids.MG1.battery.bus", "'prk' is no bus of MG1", "park"]),
    "microgrid on no bus": (of_mg1(bus="99"), ["microgrids.MG1.bus", "'99' does not exist", "buses are S, 1, 2"]),
    "microgrid of another voltage": (
        of_mg1(connection_kv=24.9),
        ["microgrids.MG1.bus", "12.47 kV", "24.9 kV", "set microgrids.MG1.connection_kv: 12.47"],
    ),
    "disconnected graph": (
        consensus([]),
        ["protocols.consensus.edges", "must connect all", "[MG1] and [MG2]", "add an edge such as [MG1, MG2]"],
    ),
    "graph of triples": (consensus([["MG1", "MG2", "MG1"]]), ["protocols.consensus.edges", "pairs such as [[MG1,"]),
    "graph with a stranger": (consensus([["MG1", "MG9"]]), ["protocols.consensus.edges", "'MG9'", "use MG1, MG2"]),
    "unreachable set-point": (
        setpoint(target_mw={"MG1": 9.0}),
        ["protocols.setpoint.target_mw.MG1", "unreachable", "-0.9", "9.000 MW", "choose a value in this range"],
    ),
    "share of no capacity": (
        setpoint(target_mw={"MG1": 0.1}, share={"MG1": 0.5}),
        ["protocols.setpoint", "share belongs to capacity_mw", "give capacity_mw or remove it"],
    ),
    "capacity in kW": (setpoint(capacity_mw=1500), ["protocols.setpoint.capacity_mw", "looks like kW", "1500"]),
    "too many rounds": (
        {"protocols": {"horizontal": "consensus", "consensus": {"rounds": 10**30}}},
        ["protocols.consensus.rounds", "less than or equal to 1000000"],
    ),
    "power factor that is none": (
        of_mg1(pv={"inverter": {"s_max_mva": 2.0, "mode": "power_factor", "power_factor": 1e-300}}),
        ["microgrids.MG1.pv.inverter.power_factor", "greater than or equal to 0.01", "1e-300"],
    ),
    "set-point of nobody": (setpoint(), ["protocols", "setpoint.target_mw or setpoint.capacity_mw", "give one"]),
    "p2p in a community": (
        {"protocols": {"horizontal": "p2p"}},
        ["protocols.horizontal: p2p", "--horizontal-protocol p2p", "needs settlement: individual", "got community"],
    ),
    "no CSV": ({"data": {"profiles": "nowhere.csv"}}, ["'nowhere.csv' is missing", "data.profiles", "CSV file"]),
    "no such price": ({"data": {"price": "spot"}}, ["data.price: spot", "'spot_usd_per_mwh' is not in", "price"]),
    "price without a file": (
        {"data": {"price": "spot", "prices": None}},
        ["data: prices is missing", "price: spot is a column", "set prices to", "tou or a number in $/MWh"],
    ),
    "price that is no number": ({"data": {"price": "nan"}}, ["data: price", "a finite number in $/MWh", "nan"]),
    "no such profile": (of_mg1(pv={"profile": "PV9"}), ["microgrids.MG1.pv.profile", "'PV9' is not in", "columns are"]),
    "external grid of tables": ({"feeder": {"ext_grid": 0}}, ["feeder.ext_grid", "pandapower", "got 0", "remove"]),
}


def replaced(row: int, column: int, value: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [
        [value if (i, j) == (row, column) else cell for j, cell in enumerate(r)] for i, r in enumerate(rows)
    ]


CSVS: dict[str, tuple[int, Callable[[Rows], Rows], dict[str, Any], Sequence[str]]] = {  # days, edit, keys, fragments
    "gap": (35, lambda r: r[:50] + r[51:], {}, ["line 52", "advance by 1:00:00", "(gap)", "fill in the missing rows"]),
    "duplicate": (35, lambda r: [*r[:50], *r[49:]], {}, ["line 52", "(duplicate)", "remove one of the rows"]),
    "unordered": (35, lambda r: [*r[:9], r[10], r[9], *r[11:]], {}, ["line 11", "(unordered)", "sort the rows"]),
    "empty cell": (35, replaced(9, 2, ""), {}, ["line 11", "load_MG1 is empty", "fill every gap"]),
    "text": (35, replaced(9, 2, "n/a"), {}, ["line 11", "load_MG1", "'n/a'", "write numbers like 0.25"]),
    "negative load": (35, replaced(9, 2, -0.2), {}, ["line 11", "load_MG1", "must not be negative", "-0.2"]),
    "percent": (35, replaced(9, 4, 60), {}, ["line 11", "pv_MG1", "in [0, 1]", "got 60", "divide the series"]),
    "less than a day": (1, lambda r: r[:6], {}, ["whole days", "got 6 rows", "give 24 rows a day"]),
    "less than a week": (
        3,
        lambda r: r,
        {"horizon": "week"},
        ["data.profiles", "split 'train' holds no whole week", "only 3 days", "needs 7 days"],
    ),
}


def edited_tables(name: str, text: str) -> Callable[[Path], dict[str, Any]]:
    """A feeder whose file `name` holds `text`."""

    def write(folder: Path) -> dict[str, Any]:
        copytree(DATA / "networks" / "short_feeder", folder / "tables")
        (folder / "tables" / name).write_text(text)
        return {"feeder": {"network": str(folder / "tables")}}

    return write


def pandapower_feeder(*sources: int, **keys: Any) -> Callable[[Path], dict[str, Any]]:
    """Lines 0-1 and 2-3, with external grids at the buses `sources`."""

    def write(folder: Path) -> dict[str, Any]:
        net: Any = pp.create_empty_network()
        pp.create_buses(net, 4, 12.47)
        for bus in (0, 2):
            pp.create_line_from_parameters(net, bus, bus + 1, 1.0, 0.2, 0.3, 0.0, 0.4)
        for bus in sources:
            pp.create_ext_grid(net, bus, name=f"grid {bus}")
        pp.to_json(net, str(folder / "net.json"))
        return {"feeder": {"network": str(folder / "net.json"), "capacitors": None, **keys}}

    return write


NETWORKS: dict[str, tuple[Callable[[Path], dict[str, Any]], Sequence[str]]] = {
    "no slack": (edited_tables("source.csv", "bus,vm_pu\n"), ["source.csv", "exactly one source bus", "got 0"]),
    "two slacks": (edited_tables("source.csv", "bus,vm_pu\nS,1\n5,1\n"), ["source.csv", "got 2", "keep one row"]),
    "slack on no bus": (edited_tables("source.csv", "bus,vm_pu\nX,1\n"), ["X' is missing", "bus.csv", "source.csv"]),
    "line between two voltages": (
        edited_tables(
            "bus.csv", "name,vn_kv\nS,12.47\n1,0.48\n" + "".join(f"{b},12.47\n" for b in "2345") + "2R,12.47\n"
        ),
        ["line DSO.S-1", "12.47 kV", "0.48 kV", "correct vn_kv"],
    ),
    "pandapower without slack": (pandapower_feeder(), ["feeder.network", "no external grid", "create_ext_grid"]),
    "pandapower with two": (
        pandapower_feeder(0, 2),
        ["feeder.network", "several external grids", "bus 2", "feeder.ext_grid: 0"],
    ),
    "pandapower with two that are connected": (
        pandapower_feeder(0, 1, 2, ext_grid=0),
        ["feeder.network", "is connected to", "line 0", "set ext_grid.in_service of one of them to False"],
    ),
    "no such external grid": (
        pandapower_feeder(0, 2, ext_grid="south"),
        ["feeder.ext_grid: 'south' is none", "they are", "grid 2"],
    ),
}


def data_csv(folder: Path, days: int = 35, edit: Callable[[Rows], Rows] = list) -> dict[str, Any]:
    """The keys of `simple_2mg` with its data from a CSV that is read in no time."""
    start = datetime(2024, 1, 1)
    values = [0.5, 0.5, 0.5, 0.0, 0.0, 0.3, 0.3, 50.0]
    rows = edit([[(start + timedelta(hours=hour)).isoformat(), *values] for hour in range(24 * days)])
    path = folder / "data.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in [["time", *COLUMNS], *rows]) + "\n")
    microgrids = {
        name: {
            "load_profile": {f"load_{name}": 1.0},
            **{kind: {"profile": f"{kind}_{name}"} for kind in ("pv", "wind")},
        }
        for name in ("MG1", "MG2")
    }
    return {
        "extends": "simple_2mg",
        "feeder": {"load_profile": {"load_DSO": 1.0}},
        "microgrids": microgrids,
        "data": {"profiles": str(path), "prices": str(path), "price": "price"},
    }


def written(folder: Path, content: Mapping[str, Any]) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(dict(content)))
    return path


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Checks that `envs.make` and train.py say the same in one line, and that nothing is left behind."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.chdir(tmp_path)
    train, cli = importlib.import_module("train"), importlib.import_module("cli")

    def check(content: Mapping[str, Any], fragments: Sequence[str]) -> None:
        path = written(tmp_path, content)
        with pytest.raises(ValueError, match=r".") as error:
            envs.make(path)
        message = str(error.value)
        assert [fragment for fragment in fragments if fragment not in message] == [], message
        assert "\n" not in message
        with pytest.raises(SystemExit) as stop:
            cli.run_command(lambda: train.main(["--test", "--scenario", str(path)]))
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"error: {' '.join(message.split())}\n"
        assert not (tmp_path / "runs").exists()

    return check


@pytest.mark.parametrize("name", KEYS)
def test_a_bad_key(name: str, refused: Any, tmp_path: Path) -> None:
    keys, fragments = KEYS[name]
    refused(merged(data_csv(tmp_path), keys), fragments)


@pytest.mark.parametrize("name", CSVS)
def test_a_bad_csv(name: str, refused: Any, tmp_path: Path) -> None:
    days, edit, keys, fragments = CSVS[name]
    refused(data_csv(tmp_path, days, edit) | keys, fragments)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bad_network(name: str, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, fragments = NETWORKS[name]
    keys = write(tmp_path)
    monkeypatch.setattr(pp, "from_json", cache(pp.from_json))  # takes a second; `envs.make` and train.py read one file
    refused(merged(data_csv(tmp_path), keys), fragments)


def test_the_input_that_all_these_spoil_is_good(tmp_path: Path) -> None:
    assert envs.make(written(tmp_path, data_csv(tmp_path))).agents == ("MG1", "MG2")


def test_the_script_itself_prints_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--test", "--scenario", "simple_2mg"]
    command += ["--protocol", "p2p"]  # under community settlement
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    for fragment in ("protocols.horizontal: p2p", "--horizontal-protocol p2p", "settlement: individual", "community"):
        assert fragment in result.stderr
    assert list(tmp_path.iterdir()) == []
