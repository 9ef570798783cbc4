"""References of scenarios that ship none: idle cost and bound by day, which turn -J into a score."""

from pathlib import Path
from typing import Any

import pytest
import torch

import envs
from envs.baselines import bound as bound_module
from envs.baselines import day_reference
from envs.baselines.bound import certified_bound
from envs.baselines.reference import idle_costs
from envs.microgrid import MicrogridEnv
from tests.envs.policies import idle, play


@pytest.fixture(autouse=True)
def _ten_test_days(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A year of 35 days, whose test split has 7, and a cache of its own."""
    monkeypatch.setattr(bound_module, "default_cache", lambda: tmp_path / "cache")


def an_env(short_year: dict[str, Any], **settings: Any) -> MicrogridEnv:
    return envs.make(split="test", evaluation=True, settlement="individual", data=short_year, **settings)


@pytest.fixture(scope="module")
def short_year(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The first 31 days of the packaged data: three of them are test days."""
    import gzip

    from envs.scenario import DATA

    folder = tmp_path_factory.mktemp("data")
    for name in ("simbench_2016", "price_2016"):
        with gzip.open(DATA / "profiles" / f"{name}_hourly.csv.gz", "rt") as file:
            (folder / f"{name}.csv").write_text(
                "".join(line for _, line in zip(range(1 + 31 * 24), file, strict=False))
            )
    return {"profiles": str(folder / "simbench_2016.csv"), "prices": str(folder / "price_2016.csv")}


def test_a_reference_of_ones_own_scenario_gives_scores(short_year: dict[str, Any], tmp_path: Path) -> None:
    env = an_env(short_year)
    assert env.num_envs == 3
    assert env.reference is None
    reference = day_reference(env, workers=1)
    bound = certified_bound(env.scenario, "test", workers=1)
    assert (tmp_path / "cache").is_dir()
    assert len(reference.bound_usd) == 31
    assert torch.equal(reference.bound_usd[bound.day], bound.usd)
    assert int(reference.bound_usd.isfinite().sum()) == 3
    env.reference = reference
    played = play(env, idle(env))
    found = env.episode_score({"cost_usd": played.cost_usd, "penalty_usd": 0 * played.cost_usd})
    assert found["score"] == pytest.approx(0.0, abs=1e-5)
    assert found["bound_usd_per_day"] == pytest.approx(bound.usd.mean().item())
    found = env.episode_score({"cost_usd": bound.usd, "penalty_usd": 0 * bound.usd})
    assert found["score"] == pytest.approx(1.0)


def test_idle_costs_are_those_of_the_bounds_days(short_year: dict[str, Any]) -> None:
    env = an_env(short_year, dtype="float64")
    bound = certified_bound(env.scenario, "test", days=2, workers=1, cache=False)
    torch.testing.assert_close(idle_costs(bound), play(env, idle(env)).cost_usd[:2], atol=1e-9, rtol=0)


def test_a_day_without_a_bound_does_not_count(short_year: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = bound_module.solve_day, []

    def first_fails(*inputs: Any) -> Any:
        calls.append(inputs)
        found = original(*inputs)
        return found._replace(certified_usd=float("nan")) if len(calls) == 1 else found

    monkeypatch.setattr(bound_module, "solve_day", first_fails)
    env = an_env(short_year)
    env.reference = day_reference(env, workers=1, cache=False)
    assert int(env.reference.bound_usd.isfinite().sum()) == 2
    idle_usd, bound_usd = env.reference.of_days(env.day)
    assert bound_usd.isnan().tolist() == [True, False, False]
    assert idle_usd.isfinite().all()
    cost_usd = torch.cat([torch.tensor([1e6], dtype=torch.float64), bound_usd[1:]])
    found = env.episode_score({"cost_usd": cost_usd, "penalty_usd": 0 * cost_usd})
    assert found["score"] == pytest.approx(1.0)
    env.reference = None


def test_an_env_that_draws_days_has_no_reference() -> None:
    with pytest.raises(ValueError, match=r"fixed days: make the env with evaluation=True"):
        day_reference(envs.make(num_envs=2))


def test_weeks_have_no_reference() -> None:
    with pytest.raises(ValueError, match=r"a bound needs horizon: day"):
        day_reference(envs.make(split="test", evaluation=True, horizon="week"))
