"""Two processes that share a run: the same parameters on both, and those of one process with all copies."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mappo import TrainConfig, Trainer
from mappo.buffer import own_rows
from mappo.checkpoint import read_file
from mappo.copies import Unlike, joined, taken
from mappo.distributed import Ranks, Share
from mappo.distributions import numbers_like
from tests.ranked_runs import RUNS, after_two, double_precision, go_on, result, run, weights_in
from tests.toy_parallel import ToyParallelEnv

ROOT = Path(__file__).parents[2]


def start_ranks(folder: Path) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.ranked_runs", str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    return [subprocess.Popen([*command, str(index), "2"], **pipes) for index in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What one process finds."""
    with double_precision():
        return {name: result(run(name, folder, Ranks())) for name in RUNS}


@pytest.fixture(scope="module")
def ranks(folder: Path, alone: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of two ranks finds, which start from the files that one process left."""
    assert alone
    processes = start_ranks(folder)
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"found_{index}.pt", weights_only=True) for index in range(2)]


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(other[name], value, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("name", RUNS)
def test_both_ranks_hold_the_same_parameters(ranks: list[dict[str, Any]], name: str) -> None:
    one, other = (found[name] for found in ranks)
    assert_same_weights(one["weights"], other["weights"], 0.0)
    assert one["history"] == other["history"]


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_train_as_one_process_with_all_copies(
    ranks: list[dict[str, Any]], alone: dict[str, Any], folder: Path, name: str
) -> None:
    one, two = (weights_in(read_file(after_two(name, folder, count))) for count in (1, 2))
    assert_same_weights(one, two, 1e-5)
    rows = (alone[name]["history"], ranks[0][name]["history"])
    for want, row in zip(*(history[:3] for history in rows), strict=True):
        assert row == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert [int(row["iteration"]) for row in rows[1] if "eval/return" in row] == [0, 2, 4]


def test_a_resumed_run_of_two_ranks_equals_one_that_did_not_stop(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert_same_weights(found["microgrid"]["weights"], found["from 2"]["weights"], 0.0)
        assert found["microgrid"]["history"][-2:] == found["from 2"]["history"]


def test_a_run_resumes_on_another_number_of_ranks(
    ranks: list[dict[str, Any]], alone: dict[str, Any], folder: Path
) -> None:
    want = alone["microgrid"]["weights"]
    assert_same_weights(want, ranks[0]["from 1"]["weights"], 1e-4)
    with double_precision():
        trainer = go_on("microgrid", after_two("microgrid", folder, 2), Ranks())
    assert_same_weights(want, result(trainer)["weights"], 1e-4)


def test_minibatches_of_all_ranks_together_are_those_of_one_process() -> None:
    copies, times, count, parts = 3, 4, 4, 6
    order = torch.randperm(copies * times * count, generator=torch.Generator().manual_seed(1))
    want = [set(part.tolist()) for part in order.chunk(parts)]
    found: list[set[int]] = [set() for _ in want]
    for index in range(count):
        rows, sizes = own_rows(order, parts, Share(index, count), copies)
        assert sorted(rows.tolist()) == list(range(copies * times))
        of_all = rows // copies * (copies * count) + index * copies + rows % copies
        for part, mine in zip(found, of_all.split(sizes), strict=True):
            part |= set(mine.tolist())
    assert found == want


@pytest.mark.parametrize("layout", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_every_share_draws_its_rows_of_the_numbers_of_all(layout: tuple[int, ...]) -> None:
    """Whatever the memory layout, which decides the order in which numbers are drawn."""
    whole = torch.zeros(tuple((8, 3, 2)[dim] for dim in layout)).permute([layout.index(dim) for dim in range(3)])
    want = numbers_like(whole, lambda x: x.normal_(generator=torch.Generator().manual_seed(1)), Share())
    parts = []
    for index in range(4):
        part = torch.zeros(tuple((2, 3, 2)[dim] for dim in layout)).permute([layout.index(dim) for dim in range(3)])
        rng = torch.Generator().manual_seed(1)
        parts.append(numbers_like(part, lambda x, rng=rng: x.normal_(generator=rng), Share(index, 4)))
    assert torch.equal(torch.cat(parts), want)


def test_states_are_joined_and_taken_apart_by_copies() -> None:
    parts = [
        {"hour": 3, "rows": torch.full((2, 3), i), "deep": {"u": torch.full((4, 2), i)}, "scale": torch.ones(3)}
        for i in range(3)
    ]
    whole = joined(parts, 2, {"u": 1})
    assert whole["rows"].shape == (6, 3)
    assert whole["deep"]["u"].shape == (4, 6)
    part = taken(whole, range(2, 4), 6, {"u": 1})
    assert part["hour"] == 3
    for name in ("rows", "scale"):
        assert torch.equal(part[name], parts[1][name])
    assert torch.equal(part["deep"]["u"], parts[1]["deep"]["u"])
    with pytest.raises(Unlike):
        joined([{"seed": 1}, {"seed": 2}], 2, {})


def test_parts_cover_everything_and_none_is_empty() -> None:
    for total in (3, 7, 70):
        parts = [Ranks(index, 3).part(total, "days") for index in range(3)]
        assert [number for part in parts for number in part] == list(range(total))
        assert min(map(len, parts)) >= 1
    with pytest.raises(ValueError, match=r"days 2 must be at least 1 for each of the 3 ranks; start fewer ranks"):
        Ranks(0, 3).part(2, "days")


def test_copies_that_ranks_cannot_share_equally_are_an_error(tmp_path: Path) -> None:
    config = TrainConfig(num_envs=5, num_steps=4, num_minibatches=1, gamma=0.9, runs_dir=str(tmp_path))
    told = r"--num-envs 5 must be a multiple of the number of ranks, 2, which share them; use 4 or 6"
    with pytest.raises(ValueError, match=told):
        Trainer(ToyParallelEnv, config, ranks=Ranks(0, 2))


def test_ranks_play_the_episodes_of_their_copies(tmp_path: Path) -> None:
    config = TrainConfig(num_envs=4, num_steps=4, num_minibatches=1, gamma=0.9, runs_dir=str(tmp_path))
    whole = Trainer(ToyParallelEnv, config).env.reset()
    halves = [Trainer(ToyParallelEnv, config, ranks=Ranks(index, 2)).env.reset() for index in range(2)]
    for want, parts in zip(whole, zip(*halves, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), want)
