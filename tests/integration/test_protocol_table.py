"""`scripts/protocol_table.py`: runs without and with protocols beside each other, who pays, how near the optimum."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import printed


def rows_of(*flags: str) -> dict[str, dict[str, Any]]:
    """What the script prints as JSON, by name."""
    return {row["name"]: row for row in json.loads(printed("protocol_table", *flags, "--json"))["rows"]}


@pytest.mark.usefixtures("script")
def test_bills_of_all_parties_sum_to_the_cost(runs: dict[str, Path]) -> None:
    rows = rows_of(str(runs["tiny_s1"]), str(runs["trading"]), "--days", "2")
    for row in rows.values():
        money = row["money"]
        assert money["microgrids"] == pytest.approx(sum(money[agent] for agent in ("MG1", "MG2", "MG3")))
        assert money["microgrids"] + money["feeder"] + money["penalty"] == pytest.approx(money["J"], abs=1e-2)
    assert rows["tiny_s1"]["protocol"] == {}
    # under the community settlement there is one meter already; trading saves a part of what several cost more
    assert rows["tiny_s1"]["money"]["one meter"] == pytest.approx(rows["tiny_s1"]["money"]["J"], abs=1e-2)
    trading = rows["trading"]
    assert trading["money"]["one meter"] < trading["money"]["J"]
    assert trading["protocol"]["traded_mwh"] > 0


@pytest.mark.usefixtures("no_solver")
def test_seeds_are_one_line_and_nearness_is_measured_from_the_first(runs: dict[str, Path]) -> None:
    rows = rows_of(*(str(runs[name]) for name in ("tiny_s1", "tiny_s2", "wide")), "--days", "2", "--bound")
    first, optimum = rows["tiny, 2 seeds"], rows["community optimum"]
    assert len(first["seeds_j_usd"]) == 2
    assert first["money"]["J"] == pytest.approx(sum(first["seeds_j_usd"]) / 2)
    assert first["money"]["closed"] == 0.0
    assert optimum["money"]["closed"] == optimum["money"]["reached"] == 1.0
    idle_usd = optimum["money"]["J"] + 100.0  # as the bounds are made up
    assert rows["wide"]["money"]["reached"] == pytest.approx((idle_usd - rows["wide"]["money"]["J"]) / 100, rel=1e-4)


@pytest.mark.usefixtures("script")
def test_tables_name_every_line(runs: dict[str, Path]) -> None:
    text = printed("protocol_table", str(runs["tiny_s1"]), str(runs["trading"]), "--days", "1")
    assert "Protocols, per day" in text
    assert all(name in text for name in ("tiny_s1", "trading", "traded_mwh", "feeder"))


@pytest.mark.usefixtures("script")
def test_runs_without_daily_bills_are_refused(runs: dict[str, Path], env_runs: dict[str, tuple[Path, str]]) -> None:
    with pytest.raises(ValueError, match=r"weeks has horizon: week"):
        printed("protocol_table", str(runs["weeks"]))
    with pytest.raises(ValueError, match=r"only microgrids have protocols; balance is of --env vmas:balance"):
        printed("protocol_table", str(env_runs["balance"][0]))
    with pytest.raises(ValueError, match="give at least one run folder"):
        printed("protocol_table")
