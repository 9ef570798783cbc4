from pathlib import Path

import pytest

from envs.composition import build_network, capacitor_buses
from envs.diagram import Cell, Layout, layout
from envs.plot import main, one_line_diagram
from envs.power import Network
from envs.scenario import Scenario, load_scenario

PNG = b"\x89PNG"


def drawn(name: str, copies: int | None = None) -> tuple[Scenario, Network, Layout]:
    scenario = load_scenario(name, {} if copies is None else {"feeder": {"copies": copies}})
    net = build_network(scenario)
    return scenario, net, layout(net, scenario.feeder.name)


def path(place: Layout, net: Network, bus: int) -> list[Cell]:
    """Cells of the line from a bus's parent: up or down in its column, then right."""
    (x0, y0), (x1, y1) = place.xy[int(net.parent[bus])], place.xy[bus]
    step = 1 if y1 > y0 else -1
    return [(x0, y) for y in range(y0 + step, y1 + step, step) if y1 != y0] + [(x, y1) for x in range(x0 + 1, x1)]


@pytest.mark.parametrize(("name", "copies"), [("ieee34_ieee13", None), ("ieee123", None), ("substation", 3)])
def test_every_bus_has_a_place_of_its_own_and_no_line_runs_over_a_bus(name: str, copies: int | None) -> None:
    _, net, place = drawn(name, copies)
    assert sorted(place.xy) == list(range(net.num_buses))
    assert len(set(place.xy.values())) == net.num_buses
    buses = set(place.xy.values()) - {place.xy[0]}
    for bus in range(1, net.num_buses):
        if net.parent[bus]:  # at the slack stands a bar, not a dot
            assert buses.isdisjoint(path(place, net, bus))


@pytest.mark.parametrize("name", ["ieee34_ieee13", "ieee123"])
def test_the_feeder_runs_to_the_right_and_every_microgrid_has_its_name(name: str) -> None:
    scenario, net, place = drawn(name)
    for bus in range(1, net.num_buses):
        assert place.xy[bus][0] == place.xy[int(net.parent[bus])][0] + 1
    assert set(place.titles) == set(scenario.microgrids)
    assert set(place.titles.values()).isdisjoint(place.xy.values())


def test_capacitors_are_found_with_their_state() -> None:
    scenario, net, _ = drawn("ieee34_ieee13")
    banks = {net.bus_index[bus]: is_on for bus, is_on in capacitor_buses(scenario, net)}
    assert {bus for bus, is_on in banks.items() if is_on} == {"DSO.844"}
    assert not banks["DSO.848"]
    assert "MG2.675" in banks


def test_the_figure_names_every_bus_and_microgrid() -> None:
    scenario, net, _ = drawn("simple_2mg")
    texts = [text.get_text() for text in one_line_diagram(scenario).axes[0].texts]
    for bus in net.bus_index[1:]:
        assert bus.rpartition(".")[2] in texts
    assert {"MG1", "MG2"} <= set(texts)


def test_the_command_writes_a_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["simple_2mg", "--out", str(tmp_path / "grid.png")])
    assert (tmp_path / "grid.png").read_bytes().startswith(PNG)
    assert "grid.png" in capsys.readouterr().out


def test_the_command_names_an_unknown_scenario(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--scenario nowhere is unknown; use one of case33bw"):
        main(["nowhere", "--out", str(tmp_path / "grid.png")])
