from pathlib import Path

import pytest
import torch

from envs.composition import build_network
from envs.power import Network
from envs.power.builder import Branch, NetworkBuilder
from envs.power.tables import compose, read_tables
from envs.scenario import DATA, Scenario

NETWORKS = DATA / "networks"


def copied_tables(folder: Path, **changed: str) -> Path:
    """The IEEE 13 tables with some files replaced."""
    for file in (NETWORKS / "ieee13").glob("*.csv"):
        (folder / file.name).write_text(changed.get(file.stem, file.read_text()))
    return folder


def diamond() -> NetworkBuilder:
    builder = NetworkBuilder("s", 1.0)
    for bus in "sabc":
        builder.add_bus(bus, 10.0)
    for a, b in (("s", "a"), ("a", "b"), ("b", "c")):
        builder.add_branch(Branch(name=f"{a}{b}", a=a, b=b, z_pu=0.01j))
    return builder


@pytest.mark.parametrize(("name", "buses", "regulators"), [("ieee13", 14, 1), ("ieee34", 36, 2), ("ieee123", 124, 4)])
def test_packaged_tables_are_radial(name: str, buses: int, regulators: int) -> None:
    net = Network.from_tables(NETWORKS / name)
    assert (net.num_buses, len(net.regulators)) == (buses, regulators)
    child = torch.arange(1, net.num_buses)
    assert (net.parent[1:] < child).all()  # depth first: a parent stands before its children
    assert (net.load_p_mw >= 0).all()


def test_default_network_is_the_documented_one(scenario: Scenario) -> None:
    net = build_network(scenario)
    assert (net.num_buses, len(net.regulators)) == (72, 5)
    assert net.bus_index[0] == "DSO.800"
    assert net.slack_v_pu == 1.035
    owned = [net.areas[1:].count(area) for area in ("DSO", "MG1", "MG2", "MG3")]
    assert owned == [35, 12, 12, 12]
    for name, grid in scenario.microgrids.items():
        substation = net.branch_names.index(f"{name}.Substation")
        assert int(net.parent[substation]) == net.position(f"DSO.{grid.bus}")
        assert net.position(f"{name}.671") == net.position(f"{name}.692")  # closed switch
        assert net.rating_pu[substation] == 5.0
        assert net.rating_pu[net.branch_names.index(f"{name}.XFM-1")] == 0.5
    assert "MG1.650L" not in net.alias
    # capacitors: C844 alone; the rest of the susceptance is line charging
    at_844, off = net.position("DSO.844"), net.position("DSO.848")
    assert net.y_pu[at_844].imag.item() == pytest.approx(0.3, abs=2e-3)
    assert net.y_pu[off].imag.item() == pytest.approx(0.0, abs=2e-3)
    assert net.load_p_mw.sum().item() == pytest.approx(0.5 * 1.769 + 3 * 0.15 * 3.466, abs=0.01)


def test_load_scale_multiplies_every_load(scenario: Scenario) -> None:
    net, table = build_network(scenario), Network.from_tables(NETWORKS / "ieee34")
    for bus in table.bus_index:
        ours = net.load_p_mw[net.position(f"DSO.{bus}")]
        assert ours.item() == pytest.approx(0.5 * table.load_p_mw[table.position(bus)].item())


def test_current_limit_is_the_ampacity_in_per_unit() -> None:
    net, tables = Network.from_tables(NETWORKS / "ieee13"), read_tables(NETWORKS / "ieee13")
    for line in tables.lines:
        rating = net.rating_pu[net.branch_names.index(line.name)].item()
        assert rating == pytest.approx(3**0.5 * tables.bus_kv[line.from_bus] * line.max_i_ka)


def test_a_subtree_is_a_range_of_the_order(scenario: Scenario) -> None:
    net = build_network(scenario)
    path = net.below(torch.arange(net.num_buses))
    depths = net.path_sums(torch.ones(net.num_buses))
    for bus in range(net.num_buses):
        above, at = {bus}, bus
        while at:
            at = int(net.parent[at])
            above.add(at)
        assert set(torch.nonzero(path[:, bus]).flatten().tolist()) == above
        assert depths[bus] == len(above)


def test_a_branch_keeps_its_voltages_whichever_end_feeds_it() -> None:
    def voltage_ratio(slack: str) -> complex:
        builder = NetworkBuilder(slack, 1.0)
        for bus in "ab":
            builder.add_bus(bus, 10.0)
        builder.add_branch(Branch(name="t", a="a", b="b", z_pu=0.02 + 0.1j, ratio=1.05 * (0.8 + 0.6j)))
        return complex(builder.build().ratio[1])

    assert voltage_ratio("a") == pytest.approx(1 / (1.05 * (0.8 + 0.6j)))
    assert voltage_ratio("b") == pytest.approx(1.05 * (0.8 + 0.6j))


def test_a_fused_source_bus_keeps_its_name() -> None:
    builder = diamond()
    builder.add_bus("t", 10.0)
    builder.add_bus("u", 10.0)
    builder.fuse("t", "u")
    builder.fuse("u", "s")
    net = builder.build()
    assert net.bus_index[0] == "s"
    assert net.position("t") == net.position("u") == 0


@pytest.mark.parametrize(("a", "b"), [("s", "c"), ("c", "a")])
def test_a_loop_is_named_with_its_buses(a: str, b: str) -> None:
    builder = diamond()
    builder.add_branch(Branch(name="tie", a=a, b=b, z_pu=0.01j))
    buses = {"s", "a", "b", "c"} if "s" in (a, b) else {"a", "b", "c"}
    with pytest.raises(ValueError, match="is a loop; open a switch") as error:
        builder.build()
    loop = str(error.value).split("meshed: ")[1].split(" is a loop")[0].split(" - ")
    assert loop[0] == loop[-1]
    assert set(loop) == buses
    assert len(loop) == len(buses) + 1


def test_builder_names_what_does_not_fit() -> None:
    builder = diamond()
    with pytest.raises(ValueError, match="bus 'x' is used by an element but missing from the bus table"):
        builder.add_load("x", 1.0, 0.0)
    with pytest.raises(ValueError, match=r"bus y: nominal voltage must be positive, got 0.0 kV"):
        builder.add_bus("y", 0.0)
    builder.add_bus("island", 4.0)
    with pytest.raises(ValueError, match=r"closed switch s-island joins buses of 10.0 and 4.0 kV"):
        builder.fuse("s", "island")
    with pytest.raises(ValueError, match="no path from source bus s to bus island; connect or remove it"):
        builder.build()
    with pytest.raises(ValueError, match="source bus 'q' is missing from the bus table"):
        NetworkBuilder("q", 1.0).build()


def test_a_regulator_fed_from_behind_is_refused() -> None:
    builder = diamond()
    builder.add_bus("r", 10.0)
    settings = {"target_pu": 1.0, "half_band_pu": 0.01, "step_pu": 0.00625, "tap_min": -16, "tap_max": 16}
    builder.add_branch(Branch(name="reg", a="r", b="c", z_pu=0.01j, is_trafo=True, regulator=settings))
    with pytest.raises(ValueError, match="regulator reg is fed from its secondary side; swap its buses"):
        builder.build()


def test_position_lists_the_buses_it_knows() -> None:
    with pytest.raises(ValueError, match="bus 'nowhere' is not in the network; buses are s, a, b, c"):
        diamond().build().position("nowhere")


def test_a_missing_table_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line\.csv is missing; a network folder holds bus, line, trafo"):
        read_tables(tmp_path)
    copied_tables(tmp_path, load="name,bus,p_mw\n1,634,0.1\n")
    with pytest.raises(ValueError, match=r"load\.csv has no column 'q_mvar'"):
        read_tables(tmp_path)


def test_a_damaged_cell_is_named_with_its_line(tmp_path: Path) -> None:
    copied_tables(tmp_path, load="name,bus,p_mw,q_mvar\n1,634,0.1,0.1\n2,645,many,0.1\n")
    with pytest.raises(ValueError, match=r"load\.csv line 3: p_mw must be a finite number, got 'many'; correct"):
        read_tables(tmp_path)


LINE = "name,from_bus,to_bus,length_km,r_ohm_per_km,x_ohm_per_km,c_nf_per_km,max_i_ka"
TRAFO = "name,hv_bus,lv_bus,sn_mva,vn_hv_kv,vn_lv_kv,vk_percent,vkr_percent,is_regulator,tap_side,control_bus"
REGULATOR = f"{TRAFO},tap_min,tap_max,tap_step_percent,v_target_pu,deadband_pu"
SHUNT = "name,bus,q_mvar_capacitive,n_steps,default_step"


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("load", "name,bus,p_mw,q_mvar\n1,634,nan,0", "line 2: p_mw must be a finite number, got 'nan'"),
        ("load", "name,bus,p_mw,q_mvar\n1,634,1,inf", "line 2: q_mvar must be a finite number, got 'inf'"),
        ("load", "name,bus,p_mw,q_mvar\n1,634,1", "line 2: every row must have 4 cells"),
        ("load", "name,bus,p_mw,q_mvar\n1,634,1,2,3", "line 2: every row must have 4 cells"),
        ("bus", "name,vn_kv\n650,0", "line 2: vn_kv must be positive, got 0"),
        ("source", "bus,vm_pu\n650,-1", "line 2: vm_pu must be positive, got -1"),
        ("line", f"{LINE}\na,1,2,0,1,1,0,1", "line 2: length_km must be positive, got 0"),
        ("line", f"{LINE}\na,1,2,1,1,1,0,1\nb,1,2,1,1,1,0,0", "line 3: max_i_ka must be positive, got 0"),
        ("line", f"{LINE}\na,1,2,1,-1,1,0,1", "line 2: r_ohm_per_km must not be negative, got -1"),
        ("line", f"{LINE}\na,1,2,1,1,-1,0,1", "line 2: x_ohm_per_km must not be negative, got -1"),
        ("line", f"{LINE}\na,1,2,1,1,1,-5,1", "line 2: c_nf_per_km must not be negative, got -5"),
        ("trafo", f"{TRAFO}\nt,1,2,0,10,1,5,1,0,,", "line 2: sn_mva must be positive, got 0"),
        ("trafo", f"{TRAFO}\nt,1,2,1,0,1,5,1,0,,", "line 2: vn_hv_kv must be positive, got 0"),
        ("trafo", f"{TRAFO}\nt,1,2,1,10,-1,5,1,0,,", "line 2: vn_lv_kv must be positive, got -1"),
        ("trafo", f"{TRAFO}\nt,1,2,1,10,1,1,5,0,,", "line 2: vk_percent must be at least vkr_percent 5, got 1"),
        ("trafo", f"{TRAFO}\nt,1,2,1,10,1,5,1,2,,", "line 2: is_regulator must be 0 or 1, got 2"),
        ("trafo", f"{REGULATOR}\nt,1,2,1,10,1,5,1,1,lv,2,1,16,0.6,1,0.01", "tap_max must enclose 0, got 1 and 16"),
        ("trafo", f"{REGULATOR}\nt,1,2,1,10,1,5,1,1,lv,2,-1.5,16,0.6,1,0.01", "tap_min must be a whole number"),
        ("shunt", f"{SHUNT}\nc,1,0.1,0,0", "line 2: n_steps must be positive, got 0"),
        ("shunt", f"{SHUNT}\nc,1,0.1,1,2", "line 2: default_step must not exceed n_steps 1, got 2"),
        ("switch", "name,bus_a,bus_b,closed\ns,1,2,yes", "line 2: closed must be a finite number, got 'yes'"),
    ],
)
def test_cells_out_of_range_are_named(tmp_path: Path, table: str, content: str, message: str) -> None:
    copied_tables(tmp_path, **{table: content + "\n"})
    with pytest.raises(ValueError, match=rf"{table}\.csv .*{message}"):
        read_tables(tmp_path)


def test_tables_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    copied_tables(tmp_path, load="\ufeffname,bus,p_mw,q_mvar\n1,634,0.1,0.1\n")
    assert read_tables(tmp_path).loads[0].name == "1"


def test_source_and_bus_names_must_be_unique(tmp_path: Path) -> None:
    copied_tables(tmp_path, source="bus,vm_pu\n650,1.0\n634,1.0\n")
    with pytest.raises(ValueError, match="must name exactly one source bus, got 2"):
        read_tables(tmp_path)
    copied_tables(tmp_path, bus="name,vn_kv\n650,115\n650,115\n")
    with pytest.raises(ValueError, match="bus names must be unique"):
        read_tables(tmp_path)


def test_a_microgrid_hangs_on_a_bus_that_exists() -> None:
    feeder, microgrid = read_tables(NETWORKS / "ieee34"), read_tables(NETWORKS / "ieee13")
    with pytest.raises(ValueError, match="microgrid X: feeder bus '999' does not exist; buses are 800, "):
        compose(feeder, {"X": (microgrid, "999")})


def test_a_microgrid_needs_one_substation_transformer() -> None:
    feeder = read_tables(NETWORKS / "ieee34")
    with pytest.raises(ValueError, match="exactly one transformer at its source bus '800', got 0"):
        compose(feeder, {"X": (feeder, "840")})
