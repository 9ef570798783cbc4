"""Tiny runs, and evaluation without solving or drawing."""

import contextlib
import importlib
import io
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import envs
import envs.baselines
from envs.devices import Applied
from envs.profiles import load_profiles
from envs.reference import DayReference
from envs.scenario import Scenario
from mappo import TrainConfig, Trainer

ROOT = Path(__file__).parents[2]
SPREAD = "pettingzoo:mpe2.simple_spread_v3:N=2,max_cycles=10"
BALANCE = "vmas:balance:max_steps=10"
SMALL = ("--num-steps", "10", "--hidden-dim", "8", "--eval-episodes", "2", "--no-tensorboard")


@contextlib.contextmanager
def keeping_ctrl_c() -> Iterator[None]:
    """Training puts a handler of its own in place, which belongs to its trainer."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def printed(name: str, *flags: str) -> str:
    """What a script prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        importlib.import_module(name).main(flags)
    return output.getvalue()


@pytest.fixture(scope="session")
def script() -> Iterator[Any]:
    """The script as a module, with its folder on the path as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("evaluate")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One iteration each: three seeds of a configuration, another network, other scenarios, trading, and weeks."""
    folder = tmp_path_factory.mktemp("runs")
    wanted: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        **{f"tiny_s{seed}": ({"seed": seed}, {}) for seed in (1, 2, 3)},
        "wide": ({"hidden_dim": 12}, {}),
        "other": ({}, {"safety": {"v_min_pu": 0.96}}),
        "trading": ({}, {"settlement": "individual", "protocols": {"horizontal": "p2p"}}),
        "weeks": ({"gamma": 0.99, "num_steps": 24}, {"horizon": "week"}),
    }
    for name, (settings, keys) in wanted.items():
        env = envs.make(num_envs=2, **keys)
        small = {"iterations": 1, "num_epochs": 1, "num_minibatches": 1, "hidden_dim": 8, "tensorboard": False}
        config = TrainConfig(**{**small, "runs_dir": str(folder), "experiment_name": name, **settings})
        Trainer(env, config).train()
    return {name: folder / name for name in wanted}


@pytest.fixture(scope="session")
def env_runs(script: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Two seeds on a PettingZoo env and one run on VMAS, each `--test`: folder and what was printed."""
    del script  # puts its folder on the path
    folder = tmp_path_factory.mktemp("runs")
    wanted = {"spread_s1": (SPREAD, "1"), "spread_s2": (SPREAD, "2"), "balance": (BALANCE, "1")}
    runs = {}
    for name, (env, seed) in wanted.items():
        place = ("--runs-dir", str(folder), "--experiment-name", name)
        with keeping_ctrl_c():
            output = printed("train", "--env", env, "--test", "--seed", seed, *SMALL, *place)
        runs[name] = (folder / name, output)
    return runs


def made_up_bound(unsolved: Sequence[int] = ()) -> Callable[..., Any]:
    """`certified_bound` without a solver: 100 $ below doing nothing, and a schedule that does nothing."""

    def bound(scenario: Scenario, split: str, days: int, **_: Any) -> Any:
        profiles = load_profiles(scenario)
        day = torch.tensor(profiles.starts(split, "day")[:days])  # pyright: ignore[reportArgumentType]
        reference = DayReference.of(scenario, profiles.num_days)
        assert reference is not None
        usd = reference.idle_usd[day] - 100.0
        usd[list(unsolved)] = math.nan
        flat = torch.where(usd.isfinite(), 0.25, math.nan)
        nothing = torch.zeros(days, len(scenario.microgrids), scenario.steps_per_day, dtype=torch.float64)
        return SimpleNamespace(
            day=day,
            usd=usd,
            primal_usd=usd + 0.01,
            cone_residual=flat,
            phantom_loss_mwh=flat,
            width=flat,
            schedule=Applied(*[nothing] * 5),
            unsolved=tuple(profiles.first_date.date() for _ in unsolved),
        )

    return bound


@pytest.fixture
def no_solver(monkeypatch: pytest.MonkeyPatch, script: Any) -> None:
    """Bounds are made up, so that nothing is solved."""
    del script  # puts its folder on the path
    monkeypatch.setattr(importlib.import_module("evaluation.reference"), "require_solver", lambda _: None)
    monkeypatch.setitem(vars(envs.baselines), "certified_bound", made_up_bound())


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch, script: Any) -> None:
    """Drawing takes most of the time, and most tests do not look."""
    blank = dict.fromkeys(("scores", "gaps", "money", "days"), b"\x89PNG")
    monkeypatch.setattr(script, "report_pngs", lambda *_: blank)


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if cvxpy were not installed."""
    extra = importlib.import_module("envs.baselines.extra")
    monkeypatch.setattr(extra, "SOLVER_PACKAGES", ("a_package_that_is_missing",))
