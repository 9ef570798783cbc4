"""Files: atomic, safe to read, checked against the env."""

from pathlib import Path

import pytest
import torch

from mappo import Trainer, load_policy
from mappo.checkpoint import read_file, write_file
from tests.mappo.conftest import MakeTrainer
from tests.toy_envs import TargetEnv


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write_file({"value": torch.ones(2)}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        write_file({"value": lambda: None}, path)
    assert read_file(path)["value"].tolist() == [1, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.pt"]


def test_missing_damaged_and_foreign_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint at"):
        load_policy(tmp_path / "none.pt")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"damaged or no checkpoint"):
        load_policy(damaged)
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"must have format 2; got None"):
        load_policy(tmp_path / "foreign.pt")
    write_file({"other": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"holds no policy"):
        load_policy(tmp_path / "other.pt")


@pytest.mark.parametrize("content", [b"hello", b"", b"\x80\x04K\x01.", b"PK\x03\x04"])
def test_foreign_bytes_are_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    for read in (load_policy, lambda path: Trainer.resume(path, TargetEnv())):
        with pytest.raises(ValueError, match=r"foreign.pt (is damaged or no checkpoint|must have format)"):
            read(path)


def test_a_truncated_file_is_told(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    make_trainer().policy.save(path)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut.pt is damaged or no checkpoint"):
            load_policy(path)


@pytest.fixture
def run_checkpoint(make_trainer: MakeTrainer) -> Path:
    trainer = make_trainer(stop_after=1)
    return trainer.run.checkpoints / "latest.pt" if trainer.train() else Path()


@pytest.mark.parametrize(
    "place",
    [("policy", "spec"), ("policy", "weights"), ("policy", "spec", "agents"), ("config",), ("progress", "iteration"),
     ("critic",), ("generator",), ("run_dir",), ("env_state",), ("rollout", "pending", "obs")],
)  # fmt: skip
def test_a_file_that_lacks_a_part_is_told(run_checkpoint: Path, place: tuple[str, ...]) -> None:
    content = read_file(run_checkpoint)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    write_file(content, run_checkpoint)
    with pytest.raises(ValueError, match=r"latest.pt is damaged or was written by another version: .+"):
        Trainer.resume(run_checkpoint, TargetEnv())


@pytest.mark.parametrize("place", ["policy", "critic", "optimizer", "value_norm"])
def test_parts_of_another_kind_are_told(run_checkpoint: Path, place: str) -> None:
    write_file(read_file(run_checkpoint) | {place: [1, 2]}, run_checkpoint)
    with pytest.raises(ValueError, match=r"latest.pt is damaged or was written by another version: .+"):
        Trainer.resume(run_checkpoint, TargetEnv())


def test_a_checkpoint_that_does_not_fit_names_what_differs(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    latest = trainer.run.checkpoints / "latest.pt"
    with pytest.raises(ValueError, match=r"does not fit this env") as error:
        Trainer.resume(latest, TargetEnv(16, (1, 1)))
    assert "agents: ['agent_0', 'agent_1', 'agent_2'] -> ['agent_0', 'agent_1']" in str(error.value)
    assert "state_dim: 4 -> 3" in str(error.value)
    renamed = TargetEnv()
    renamed.obs_names = ["target", "clock"]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"obs_names: 0 -> target, 1 -> clock"):
        Trainer.resume(latest, renamed)


def test_a_policy_file_cannot_be_resumed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer().policy.save(tmp_path / "policy.pt")
    with pytest.raises(ValueError, match=r"holds only a policy; resume from a checkpoint of a run"):
        Trainer.resume(tmp_path / "policy.pt", TargetEnv())


def test_a_checkpoint_tells_where_it_comes_from(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    content = read_file(trainer.run.checkpoints / "latest.pt")
    assert content["env"] == {"spec": {"num_envs": 16}, "num_envs": 16}
    assert content["versions"]["torch"] == torch.__version__
