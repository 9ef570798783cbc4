"""How many threads are chosen: physical cores, within what a container may use."""

from pathlib import Path

import pytest

from mappo import threads
from mappo.threads import MOST_THREADS, physical_cores, thread_count


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 cores with two threads each, without limits; files below tmp_path."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_CPUS", tmp_path)
    monkeypatch.setattr(threads, "_QUOTAS", (tmp_path / "cpu.max", tmp_path / "quota"))
    monkeypatch.setattr(threads, "_PERIOD", tmp_path / "period")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)), raising=False)
    for cpu in range(32):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 16},{cpu % 16 + 16}\n")
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_threads_of_a_core_count_once_and_large_machines_are_not_filled() -> None:
    assert physical_cores() == 16
    assert thread_count(0) == MOST_THREADS
    assert thread_count(12) == 12


@pytest.mark.usefixtures("machine")
def test_a_process_bound_to_some_cores_uses_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 16}, raising=False)
    assert thread_count(0) == 2


def test_a_container_uses_what_it_may(machine: Path) -> None:
    (machine / "quota").write_text("150000\n")
    (machine / "period").write_text("100000\n")
    assert thread_count(0) == 2
    (machine / "quota").write_text("-1\n")
    assert thread_count(0) == MOST_THREADS
    (machine / "cpu.max").write_text("300000 100000\n")
    assert thread_count(0) == 3
    (machine / "cpu.max").write_text("max 100000\n")
    assert thread_count(0) == MOST_THREADS


@pytest.mark.usefixtures("machine")
def test_the_variable_of_openmp_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_count(0) is None
    assert thread_count(2) == 2


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="--threads must be at least 0, got -1"):
        thread_count(-1)
