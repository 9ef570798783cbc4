import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mappo import Trainer
from mappo.adapters import SplitVecEnv
from mappo.vec_env import Step
from tests.mappo.adapters.conftest import Children
from tests.toy_envs import TargetEnv

pytestmark = pytest.mark.usefixtures("new_children")


class NumberedEnv(TargetEnv):
    """Its targets are the numbers of its copies, its last episode ends are told, and the first agents cannot act."""

    copy_dims: ClassVar[Mapping[str, int]] = {"by_agent": 1}

    def __init__(self, copies: range, fail_at: int = -1) -> None:
        self.copies, self.fail_at = copies, fail_at
        super().__init__(len(copies), horizon=3, limit=True)
        self.ended = torch.zeros(len(copies), dtype=torch.bool)
        self.group_size = 2
        self.spec = {"num_envs": len(copies), "first_copy": copies.start, "colour": "red"}

    def step(self, actions: Tensor) -> Step:
        if self.time[0] == self.fail_at:
            raise KeyError("the door is locked")
        step = super().step(actions)
        self.ended = step.truncated[:, 0]
        return step

    def initial_masks(self) -> tuple[Tensor, Tensor]:
        alive = torch.ones(self.num_envs, 3, dtype=torch.bool)
        alive[:, 0] = False
        return alive, torch.ones(self.num_envs, 3, 0, dtype=torch.bool)

    def state_dict(self) -> dict[str, Any]:
        return {"time": self.time, "by_agent": self.targets[..., 0].T}

    def load_state_dict(self, state: Any) -> None:
        self.time, self.targets = state["time"], state["by_agent"].T[..., None]

    def _draw(self) -> None:
        numbers = torch.tensor(self.copies)[:, None] + 0.1 * torch.arange(3)
        self.targets = (numbers / 10).unsqueeze(-1)


def play(env: Any, steps: int) -> list[Step]:
    env.reset()
    generator = torch.Generator().manual_seed(0)
    return [env.step(2 * torch.rand(env.num_envs, 3, 1, generator=generator) - 1) for _ in range(steps)]


def test_copies_of_two_workers_are_those_of_one_env() -> None:
    whole, split = NumberedEnv(range(4, 12)), SplitVecEnv(NumberedEnv, 8, 2, first_copy=4)
    for step, found in zip(play(whole, 4), play(split, 4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(step[:9], found[:9], strict=True))
        assert list(step.metrics) == list(found.metrics)
        assert all(torch.equal(value, found.metrics[name]) for name, value in step.metrics.items())
        assert torch.equal(step.truncated[:, 0], found.truncated[:, 0])
    split.reset()
    assert all(torch.equal(a, b) for a, b in zip(whole.initial_masks(), split.initial_masks(), strict=True))
    assert (split.spec, split.group_size) == (whole.spec, 2)
    assert torch.equal(split.idle_action(), whole.idle_action())
    split.close()


def test_an_env_tells_which_episodes_ended() -> None:
    env = SplitVecEnv(NumberedEnv, 4, 1)
    play(env, 3)
    assert env.ended is not None
    assert env.ended.tolist() == [True] * 4
    assert env.spec == {"num_envs": 4, "colour": "red"}  # as of an env that begins with copy 0
    env.close()


def test_a_state_is_that_of_all_copies_and_loads_into_any_number_of_workers() -> None:
    whole, split = NumberedEnv(range(8)), SplitVecEnv(NumberedEnv, 8, 2)
    play(whole, 2)
    play(split, 2)
    state = split.state_dict()
    assert state is not None
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    changed = {"time": torch.arange(8) % 3, "by_agent": torch.arange(24.0).view(3, 8)}
    assert split.load_state_dict(changed) is True
    found = split.state_dict()
    assert found is not None
    assert all(torch.equal(value, found[name]) for name, value in changed.items())
    split.close()


def test_a_state_that_workers_do_not_share_is_not_saved() -> None:
    split = SplitVecEnv(lambda copies: TargetEnv(len(copies), seed=copies.start), 4, 2)  # a generator of its own each
    split.reset()
    assert split.state_dict() is None
    split.close()


def test_a_step_is_not_overwritten_by_the_next() -> None:
    split = SplitVecEnv(NumberedEnv, 2, 1)
    first, second = play(split, 2)
    again = play(split, 1)[0]
    assert not torch.equal(first.metrics["cost"], second.metrics["cost"])
    assert torch.equal(first.metrics["cost"], again.metrics["cost"])
    assert torch.equal(first.obs, again.obs)
    split.close()


def test_an_error_in_a_worker_shows_its_traceback_and_ends_all_workers(new_children: Children) -> None:
    split = SplitVecEnv(lambda copies: NumberedEnv(copies, fail_at=1 if copies.start else -1), 4, 2)
    with pytest.raises(RuntimeError, match="KeyError: 'the door is locked'") as error:
        play(split, 3)
    assert "in worker 1 (copies 2 to 3)" in str(error.value)
    assert 'raise KeyError("the door is locked")' in str(error.value)
    assert not new_children()


def test_a_worker_that_is_killed_is_reported_and_the_others_end(new_children: Children) -> None:
    split = SplitVecEnv(NumberedEnv, 4, 2)
    play(split, 1)
    victim = new_children()[0].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"a worker process ended unexpectedly \(exit codes .*-9"):
        play(split, 1)
    assert not new_children()


def test_a_closed_env_says_so_and_closes_again(new_children: Children) -> None:
    split = SplitVecEnv(NumberedEnv, 4, 2)  # not even begun
    split.close()
    split.close()
    assert not new_children()
    with pytest.raises(ValueError, match="the env is closed"):
        split.reset()


def test_the_metrics_must_be_named() -> None:
    class Unnamed(NumberedEnv):
        metric_specs = ()

    split = SplitVecEnv(Unnamed, 4, 1)
    with pytest.raises(ValueError, match=r"metric_specs must name every metric .*'cost', 'worst'"):
        play(split, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((8, 0), r"num_workers must be at least 1, got 0; use make\(range\(8\)\) itself"),
        ((8, 3), "--num-workers 3 must divide --num-envs 8; give --num-workers 2 or 4, or --num-envs 6 or 9"),
        ((6, 2), "--num-workers 2 must divide --num-envs 6, whose 3 groups of --group-size 2 stay whole; give "
                 "--num-workers 1 or 3, or --num-envs 4 or 8"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, int], message: str, new_children: Children) -> None:
    with pytest.raises(ValueError, match=message):
        SplitVecEnv(NumberedEnv, *sizes)
    assert not new_children()


def test_envs_of_other_copies_or_devices_are_refused(new_children: Children) -> None:
    with pytest.raises(ValueError, match=r"an env of len\(copies\) = 2 copies; got 4"):
        SplitVecEnv(lambda _: NumberedEnv(range(4)), 4, 2)

    class OnGpu(NumberedEnv):
        def __init__(self, copies: range) -> None:
            super().__init__(copies)
            self.device = torch.device("cuda")

    with pytest.raises(ValueError, match="--num-workers 2 needs an env on the CPU, got cuda"):
        SplitVecEnv(OnGpu, 4, 2)
    assert not new_children()


def test_wrong_actions_are_refused_here() -> None:
    split = SplitVecEnv(NumberedEnv, 2, 1)
    split.reset()
    with pytest.raises(ValueError, match=r"actions must be \(2, 3, 1\); got \(1, 3, 1\)"):
        split.step(torch.zeros(1, 3, 1))
    split.close()


def test_a_trainer_closes_it(tmp_path: Path, new_children: Children) -> None:
    trainer = Trainer(SplitVecEnv(NumberedEnv, 8, 2))
    assert trainer.group_size == 2
    assert len(new_children()) == 2
    trainer.close()
    assert not new_children()
