import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import envs
from envs.composition import build_network
from envs.scenario import DATA, load_scenario

ROOT = Path(__file__).parents[2]
DEFAULT = DATA / "scenarios" / "ieee34_ieee13.yaml"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizn": "week"}, "scenario ieee34_ieee13: unknown key 'horizn': remove it or correct its spelling"),
        ({"safety": {"vmin": 0.9}}, "unknown key 'safety.vmin'"),
        ({"microgrids": {"MG1": {"battery": {"soc": 1}}}}, "unknown key 'microgrids.MG1.battery.soc'"),
        ({"microgrids": {"MG4": {"bus": "840"}}}, "key 'microgrids.MG4.network' is missing: add it"),
        ({"horizon": "month"}, "horizon: must be 'day' or 'week', got 'month'"),
        ({"settlement": "none"}, "settlement: must be 'community' or 'individual', got 'none'"),
        ({"dt_h": 0.5}, "dt_h: .*must be 1.0 or 0.25 hours, got 0.5"),
        (
            {"microgrids": {"MG2": {"pv": {"p_max_mw": -0.1}}}},
            "microgrids.MG2.pv.p_max_mw: .*greater than or equal to 0, got -0.1",
        ),
        (
            {"microgrids": {"MG2": {"battery": {"energy_max_mwh": -2.0}}}},
            "microgrids.MG2.battery.energy_max_mwh: .*greater than 0, got -2.0",
        ),
        (
            {"microgrids": {"MG1": {"generator": {"p_max_mw": -1}}}},
            "microgrids.MG1.generator.p_max_mw: .*greater than or equal to 0, got -1",
        ),
        (
            {"microgrids": {"MG1": {"battery": {"efficiency": 1.2}}}},
            "microgrids.MG1.battery.efficiency: must be at most 1; it is a share, so 98 % is 0.98, got 1.2",
        ),
        (
            {"microgrids": {"MG1": {"battery": {"energy_min_mwh": 3.0}}}},
            "energy_min_mwh must be below energy_max_mwh, got 3.0 and 2.0",
        ),
        (
            {"microgrids": {"MG1": {"battery": {"s_max_mva": 0.4}}}},
            "s_max_mva must be at least p_max_mw, got 0.4 and 0.5",
        ),
        ({"safety": {"v_min_pu": 1.06}}, "v_min_pu must be below v_max_pu, got 1.06 and 1.05"),
        ({"episode": {"load_factor": [1.1, 0.9]}}, r"load_factor must be \[low, high\] with low <= high"),
        (
            {"episode": {"initial_energy_mwh": 2.5}},
            r"episode.initial_energy_mwh must lie within MG1's battery \[0.2, 2.0\] MWh, got 2.5",
        ),
        ({"feeder": {"name": "MG1"}}, "the feeder's name 'MG1' must differ from the microgrids'"),
        ({"feeder": {"slack_v_pu": float("nan")}}, "feeder.slack_v_pu: .*finite"),
        ({"feeder": {"network": "ieee8500"}}, "network 'ieee8500' is unknown; use one of campus, ieee123, "),
        (
            {"microgrids": {"MG1": {"bus": "999"}}},
            "microgrids.MG1.bus: feeder bus '999' does not exist; buses are 800, ",
        ),
        ({"microgrids": {"MG1": {"pv": {"bus": "999"}}}}, "microgrids.MG1.pv.bus: '999' is no bus of MG1; buses are "),
        (
            {"microgrids": {"MG2": {"wind": {"bus": "68O"}}}},
            "wind.bus: '68O' is no bus of MG2; near names are .*680",
        ),
        ({"microgrids": {"MG1": {"bus": "88"}}}, "MG1.bus: feeder bus '88' does not exist; near names are .*888"),
        (
            {"microgrids": {"MG1": {"bus": "890"}}},
            "MG1.bus: bus '890' has 4.16 kV, but connection_kv is for 24.9 kV; set microgrids.MG1.connection_kv: 4.16, "
            "or choose another bus",
        ),
        (
            {"microgrids": {"MG1": {"connection_kv": None}}},
            "MG1.bus: bus '830' has 24.9 kV, but the transformer of ieee13 is for 115 kV; set .*connection_kv: 24.9",
        ),
        ({"microgrids": {"MG1": {"load_scale": 25}}}, "MG1.load_scale: must be at most 20; .*load in kW, got 25"),
        ({"microgrids": {"MG1": {"pv": {"p_max_mw": 1500}}}}, "pv.p_max_mw: must be at most 1000; .*kW, .*got 1500"),
        (
            {"microgrids": {"MG1": {"battery": {"energy_max_mwh": 2000}}}},
            "battery.energy_max_mwh: must be at most 1000; it looks like kWh, divide it by 1000, got 2000",
        ),
        ({"microgrids": {"MG1": {"connection_kv": 24900}}}, "connection_kv: must be at most 1000; it looks like V"),
        ({"feeder": {"slack_v_pu": 103.5}}, "feeder.slack_v_pu: must be at most 2; it looks like kV or %"),
        ({"feeder": {"copies": 0}}, "feeder.copies: .*greater than or equal to 1, got 0"),
        ({"feeder": {"copies": 1.5}}, "feeder.copies: .*valid integer, got 1.5"),
        ({"microgrids": {"MG1": {"network": "pandapower:case33bw"}}}, "a pandapower network can be a feeder only"),
        (
            {"feeder": {"capacitors": {"C999": 1}}},
            r"capacitors.C999: 1 is not possible in ieee34; it has C844 \(at most 1\), C848",
        ),
        ({"feeder": {"capacitors": {"C844": 2}}}, "capacitors.C844: 2 is not possible in ieee34"),
        (
            {"feeder": {"regulators": {"R9": {"target_pu": 1.0, "deadband_pu": 0.01}}}},
            "DSO: regulators.R9 does not exist; tap changers are DSO.Regulator1, DSO.Regulator2, MG1.Substation",
        ),
        ({"split": "validation"}, "--split must be one of train, val, test, got 'validation'"),
        ({"critic_state": "all"}, "--critic-state must be one of privileged, full, got 'all'"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
        ({"device": "tpu9"}, r"--device tpu9 does not exist here .*; use cpu or auto"),
        ({"num_envs": 0}, "--num-envs must be at least 1, got 0"),
        ({"num_envs": 6, "group_size": 4}, "--group-size must be at least 1 and divide --num-envs 6, got 4"),
        ({"num_envs": 6, "group_size": 0}, "--group-size must be at least 1 and divide --num-envs 6, got 0"),
        ({"num_envs": "3"}, "--num-envs must be a whole number such as 3, got '3'"),
        ({"num_envs": 2.5}, "--num-envs must be a whole number such as 3, got 2.5"),
        ({"num_envs": True}, "--num-envs must be a whole number such as 3, got True"),
        ({"seed": None}, "--seed must be a whole number such as 3, got None"),
        ({"seed": 2**63}, r"--seed must fit into 64 bits, .*, got 9223372036854775808"),
        ({"penalty": "1"}, "--penalty must be a number, got '1'"),
        ({"penalty": float("nan")}, "--penalty must not be negative, got nan"),
        ({"evaluation": "yes"}, "evaluation must be True or False, got 'yes'"),
        ({"dt_h": 0.5}, "^scenario ieee34_ieee13: dt_h: must be 1.0 or 0.25 hours, got 0.5$"),
        ({"feeder": {"name": "MG1"}}, "^scenario ieee34_ieee13: the feeder's name 'MG1' must differ"),
        ({"penalty": -1.0}, "--penalty must not be negative, got -1.0"),
    ],
)
def test_bad_settings_are_named_with_value_and_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        envs.make(**settings)


def test_an_unknown_scenario_lists_those_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"--scenario ieee9000 is unknown; use one of .*ieee34_ieee13.* or the path of a \.yaml file"
    ):
        envs.make("ieee9000")
    assert "ieee34_ieee13" in envs.scenarios()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1\n- 2\n", "must be a mapping of keys, got list"),
        ("a: 1\nb: {c: 1,\n  c: 2}\n", r"is not valid YAML: key 'c' is given twice: remove one of them\s.*line 3"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.yaml {message}"):
        load_scenario(path)


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'one'.*; .*unknown key 'two'"):
        load_scenario("ieee34_ieee13", {"one": 1, "two": 2})


def test_a_file_of_ones_own_equals_the_packaged_scenario(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(DEFAULT.read_text())
    assert load_scenario(path) == load_scenario("ieee34_ieee13")


def test_overrides_merge_and_leave_the_rest() -> None:
    plain = load_scenario("ieee34_ieee13")
    changed = load_scenario("ieee34_ieee13", {"safety": {"v_min_pu": 0.96}})
    assert changed.safety.v_min_pu == 0.96
    assert changed.safety.v_max_pu == plain.safety.v_max_pu
    assert changed.microgrids == plain.microgrids


def test_one_microgrid_with_other_devices_runs(tmp_path: Path) -> None:
    content = yaml.safe_load(DEFAULT.read_text())
    content["name"], content["microgrids"] = "single", {"only": content["microgrids"]["MG3"]}
    path = tmp_path / "single.yaml"
    path.write_text(yaml.safe_dump(content))
    env = envs.make(path, num_envs=3)
    obs, state = env.reset()
    step = env.step(torch.zeros(3, 1, 3))
    assert env.agents == ("only",)
    assert obs.shape == step.obs.shape == (3, 1, len(env.obs_names))
    assert state.shape == (3, env.state_dim)
    assert not step.metrics["not_converged"].any()


def test_spec_rebuilds_the_env() -> None:
    env = envs.make(num_envs=2, seed=4, horizon="week", safety={"v_min_pu": 0.96})
    again = envs.make(**env.spec)
    assert again.scenario == env.scenario
    assert again.settings == env.settings
    assert torch.equal(env.reset()[0], again.reset()[0])


def test_an_extension_changes_keys_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: ieee34_ieee13\nname: mine\nsafety: {v_min_pu: 0.94}\n")
    (tmp_path / "again.yaml").write_text("extends: mine.yaml\nmicrogrids: {MG1: {load_profile: {load_G2-A: 1.0}}}\n")
    default, again = load_scenario("ieee34_ieee13"), load_scenario(tmp_path / "again.yaml")
    assert (again.name, again.safety.v_min_pu, again.safety.v_max_pu) == ("mine", 0.94, default.safety.v_max_pu)
    assert again.microgrids["MG1"].load_profile == {"load_G2-A": 1.0}
    assert again.microgrids["MG2"] == default.microgrids["MG2"]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere", r"mine\.yaml: extends: nowhere is unknown; use one of case33bw, "),
        ("mine.yaml", r"mine\.yaml extends itself: .*mine\.yaml -> .*mine\.yaml"),
        ("3", "extends must be a packaged name or the path of a .yaml file, got 3"),
    ],
)
def test_an_extension_of_nothing_or_of_itself_is_an_error(tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: {base}\nname: mine\n")
    with pytest.raises(ValueError, match=message):
        load_scenario(tmp_path / "mine.yaml")


def test_names_with_dots_are_refused_as_they_would_be_taken_for_buses() -> None:
    grid = load_scenario("ieee34_ieee13").microgrids["MG1"].model_dump()
    with pytest.raises(ValueError, match=r"must have a letter and no dot, got 'A\.B'"):
        load_scenario("ieee34_ieee13", {"microgrids": {"A.B": grid}})


def test_a_transformer_of_another_rating_acts_as_its_ratio() -> None:
    plain = build_network(load_scenario("ieee34_ieee13"))
    other = build_network(load_scenario("ieee34_ieee13", {"microgrids": {"MG1": {"connection_kv": 24.0}}}))
    head = plain.position("MG1.RG60")
    assert float(other.ratio[head].real) == pytest.approx(float(plain.ratio[head].real) * 24.9 / 24.0)
    assert torch.equal(
        torch.cat([other.ratio[:head], other.ratio[head + 1 :]]),
        torch.cat([plain.ratio[:head], plain.ratio[head + 1 :]]),
    )


def test_the_reference_page_is_current() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "scenario_reference.py"))
    assert page["PAGE"].read_text() == page["reference_page"](), "run python scripts/scenario_reference.py"
    assert page["unit_of"]("cost_quadratic_usd_per_mw2h") == "$/MW²h"
    assert page["unit_of"]("name") == ""


def test_null_removes_a_mapping_that_the_extended_scenario_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: simple_2mg\nfeeder: {capacitors: null}\nmicrogrids: {MG2: null}\n")
    scenario = load_scenario(path)
    assert scenario.feeder.capacitors == {}
    assert list(scenario.microgrids) == ["MG1"]
