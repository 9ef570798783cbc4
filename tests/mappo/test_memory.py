"""The formula of the buffer's size is what is allocated, and what does not fit is refused before it is."""

from pathlib import Path

import pytest
import torch

from mappo import TrainConfig, memory, targets
from mappo.buffer import allocate
from mappo.distributed import Ranks
from mappo.memory import GIB, TrainingBytes, Widths, available_bytes, buffer_bytes, check_memory
from mappo.parts import buffer_widths, check_fits_memory
from tests.mappo.conftest import MakeTrainer, next_batch
from tests.toy_envs import TargetEnv


@pytest.mark.parametrize(
    "widths",
    [
        Widths(agents=3, obs=41, inputs=44, state=189, actions=3, mask=0, memory=0, critic_rows=1),
        Widths(agents=2, obs=3, inputs=5, state=4, actions=1, mask=6, memory=8, critic_rows=2),
    ],
    ids=["microgrid", "choices and a memory"],
)
def test_the_formula_is_what_is_allocated(widths: Widths) -> None:
    buffer = allocate(12, 7, 4, widths, torch.device("cpu"))
    assert buffer_bytes(12, 7, 4, widths) == sum(part.nbytes for part in buffer)


def test_too_large_a_rollout_names_what_to_lower() -> None:
    needed = TrainingBytes(buffer=6 * GIB, update=2 * GIB)
    check_memory(needed, 8 * GIB, num_envs=4096, num_steps=24, device="cpu")
    check_memory(needed, None, num_envs=4096, num_steps=24, device="cpu")
    message = (
        r"--num-envs 4096 x --num-steps 24 takes 8.00 GiB on cpu \(6.00 for the rollout, 2.00 for its update\), and "
        r"2.00 GiB are free: lower --num-envs to 1024 or less, or lower --num-steps"
    )
    with pytest.raises(ValueError, match=message):
        check_memory(needed, 2 * GIB, num_envs=4096, num_steps=24, device="cpu")
    with pytest.raises(ValueError, match="free: lower --num-steps"):
        check_memory(needed, GIB, num_envs=4, num_steps=24, device="cpu")


def test_a_trainer_asks_before_it_allocates(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mappo.parts.available_bytes", lambda _: 1000)
    monkeypatch.setattr("mappo.trainer.allocate", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ValueError, match="--num-envs 16 x --num-steps 5 takes"):
        make_trainer()


def test_a_container_may_leave_less_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert available_bytes(cpu) == 5000 * 1024
    for name, text in (("max", "max"), ("current", "3000"), ("stat", "file 9\ninactive_file 500\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_bytes(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("10000\n")
    assert available_bytes(cpu) == 10000 - 3000 + 500
    assert available_bytes(torch.device("meta")) is None


@pytest.mark.parametrize("recurrent", ["none", "lstm"])
def test_values_of_some_copies_at_a_time_are_those_of_all(
    make_trainer: MakeTrainer, recurrent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(copies: int) -> tuple[torch.Tensor, ...]:
        monkeypatch.setattr(targets, "CRITIC_COPIES", copies)
        trainer = make_trainer(TargetEnv(num_envs=6), recurrent=recurrent, chunk_length=5, num_minibatches=1)
        made = next_batch(trainer)
        return made.values, made.returns, made.critic_memory

    for together, apart in zip(batch(6), batch(4), strict=True):
        torch.testing.assert_close(apart, together)


def test_ranks_share_the_memory_and_settings_are_of_all(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(TargetEnv(16))
    config = TrainConfig(num_steps=8, minibatch_size=32 * 8)  # one minibatch of both ranks' copies
    widths = buffer_widths(trainer.spec, trainer.policy, trainer.critic)
    ranks = Ranks(0, 2)
    needed = buffer_bytes(8, 16, 1, widths)
    monkeypatch.setattr("mappo.parts.available_bytes", lambda _: 2**40)
    check_fits_memory(config, 32, widths, trainer.critic, torch.device("cpu"), ranks)
    monkeypatch.setattr("mappo.parts.available_bytes", lambda _: 2 * needed)
    with pytest.raises(ValueError, match=r"--num-envs 32 x --num-steps 8 takes .* on cpu in each of 2 ranks"):
        check_fits_memory(config, 32, widths, trainer.critic, torch.device("cpu"), ranks)
