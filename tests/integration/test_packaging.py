"""The wheel carries everything: installed elsewhere, it trains without the clone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = """
import envs, mappo
from mappo import TrainConfig, Trainer
assert str(mappo.__file__).startswith({target!r}) and str(envs.__file__).startswith({target!r})
env = envs.make(num_envs=2)
val = envs.make(split="val", evaluation=True)
trainer = Trainer(env, TrainConfig(iterations=1, num_minibatches=1, hidden_dim=8), val)
print(trainer.train()[-1]["eval/score"])
"""


def pip(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr


def test_the_wheel_trains_from_another_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that building leaves nothing in the clone
    listed = subprocess.run(
        ["git", "ls-files", "pyproject.toml", "README.md", "LICENSE", "mappo", "envs"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source), cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    pip("install", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    assert (site / "envs" / "data" / "profiles" / "NOTICE.md").is_file()
    elsewhere.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", TRAIN.format(target=str(site))], cwd=elsewhere, capture_output=True, text=True,
        check=False, timeout=300, env=os.environ | {"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert -5 < float(result.stdout) < 1
    assert len(list((elsewhere / "runs").iterdir())) == 1
