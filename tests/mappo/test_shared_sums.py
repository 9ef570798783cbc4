"""Sums through shared memory: those of gloo, the same on all ranks; waiting, lost ranks, nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mappo.shared_sums import suits
from tests.ranked_sums import PAUSE_S

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not suits(), reason="sums go through gloo here")


@pytest.fixture(scope="module", params=[2, 3])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What so many ranks left, of which the last was lost at the end."""
    folder, count = tmp_path_factory.mktemp("sums"), request.param
    (folder / "tmp").mkdir()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    command = [sys.executable, "-m", "tests.ranked_sums", str(folder)]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    processes = [subprocess.Popen([*command, str(rank), str(count)], env=environment, **pipes) for rank in range(count)]
    try:
        # the first ones first, so that the one that is killed is not reaped before they notice
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes[:-1]] == [0] * (count - 1), "\n".join(outputs)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What each rank found."""
    return [torch.load(file, weights_only=True) for file in sorted(folder.glob("found_*.pt"))]


def test_sums_are_those_of_gloo_and_the_same_on_all_ranks(found: list[dict[str, Any]]) -> None:
    first, *others = found
    for total, want in zip(first["sums"], first["gloo"], strict=True):
        assert total.dtype == want.dtype
        torch.testing.assert_close(total, want)
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(first["sums"], other["sums"], strict=True))


def test_a_fast_rank_does_not_overwrite_what_a_slow_one_reads(found: list[dict[str, Any]]) -> None:
    assert [one["wrong"] for one in found] == [0] * len(found)


def test_a_rank_that_waits_long_sleeps(found: list[dict[str, Any]]) -> None:
    assert max(one["busy_s"] for one in found) < PAUSE_S / 4


def test_ranks_share_memory_only_if_all_can(found: list[dict[str, Any]]) -> None:
    assert all(one["unlike"] for one in found)


def test_a_lost_rank_is_noticed_at_once(folder: Path, found: list[dict[str, Any]]) -> None:
    count = len(found)
    for index in range(count - 1):
        told, after_s = torch.load(folder / f"told_{index}.pt", weights_only=True)
        lost = f"rank {index} of {count} has lost another one, which ended or cannot be reached"
        assert told.startswith(lost)
        assert after_s < PAUSE_S + 1


def test_the_memory_has_no_name_that_could_be_left_behind(folder: Path, found: list[dict[str, Any]]) -> None:
    for one in found:
        assert len(one["memory"]) == 1
        assert one["memory"][0].endswith("(deleted)")
    places = [path for path in (folder / "tmp", Path("/dev/shm")) if path.is_dir()]
    assert not [file for place in places for file in place.iterdir() if "mappo" in file.name]
