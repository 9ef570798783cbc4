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
    with pytest.raises(ValueError, match=r"must have format 1; got None"):
        load_policy(tmp_path / "foreign.pt")
    write_file({"other": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"holds no policy"):
        load_policy(tmp_path / "other.pt")


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
