"""Networked microgrids: `--env microgrid --scenario NAME`.

Data flow: `Request` -> `envs.make` -> batched MicrogridEnv, or several in processes of their own. Its evaluation env
plays every validation day; the bounds that scores refer to are shipped, or solved once where the extra is installed.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from math import isnan
from typing import Any

import torch

import envs
from envs import baselines
from envs.baselines.extra import INSTALL, solver_is_missing
from envs.profiles import own_data
from envs.scenario_file import merged
from envs.settings import env_device
from mappo import VecEnv
from mappo.adapters.batch import check_workers
from mappo.adapters.split import SplitVecEnv
from mappo.config import RewardMode, flag

from .family import LEARNS_FROM, Family, Request
from .flags import MicrogridFlags

DEFAULT_GROUP_SIZE = 8
EVALUATED_BUSES = 2**19
"""Of all copies that an evaluation plays at once: 7,281 of the default scenario, 73 with 7,101 buses; about 0.3 GiB."""
BOUNDED_BUSES = 1000
"""Bounds of larger networks are not solved before a training."""
_SCENARIO_FLAGS = ("vertical_protocol", "horizontal_protocol", "protocol", "profiles")  # not keywords of `envs.make`


class Microgrid(Family):
    """Batched copies of one scenario."""

    name = "microgrid"
    form = "microgrid"
    help = "networked microgrids under AC power flow; see --scenario"
    flags = tuple(flag(field.name) for field in fields(MicrogridFlags))
    panels = (
        ("validation score (0 idle, 1 bound)", "eval/score"),
        ("return of training episodes, {team}", "train/return"),
        ("violating share of training steps", "grid/violating"),
        ("standard deviation of actions", "policy/std"),
    )
    plays = "days"
    has_workers = True

    def check_text(self, text: str) -> None:
        """It has no arguments."""
        if text != self.name:
            raise ValueError(f"--env microgrid has no arguments, got {text!r}; choose the task with --scenario")

    def owns(self, spec: Mapping[str, Any]) -> bool:
        """Every spec of `envs.make` names its scenario."""
        return "scenario" in spec

    def text_of(self, spec: Mapping[str, Any]) -> str:
        """Always the same."""
        del spec
        return self.name

    def title(self, request: Request) -> str:
        """The scenario."""
        return request.microgrid.scenario

    def test_settings(self) -> dict[str, Any]:
        """Days are short."""
        return {"num_envs": 32}

    def training_env(self, request: Request) -> VecEnv:
        """Days of the training split, in `--num-workers` processes or in this one."""
        keywords = _keywords(request)
        if workers := request.config.num_workers:
            _check_workers(workers, request, keywords["group_size"])
        return training_copies(workers, **keywords)

    def evaluation_env(self, request: Request) -> envs.MicrogridEnv:
        """All validation days, with what their score refers to."""
        all_days = {"num_envs": None, "split": "val", "evaluation": True, "buses_at_once": EVALUATED_BUSES}
        keywords = _keywords(request) | all_days
        keywords.pop("first_copy", None)
        env = envs.make(**keywords)
        complete_reference(env, request.say, solve=not request.test)
        if request.ranks.count == 1:
            return env
        days = request.ranks.part(env.num_episodes, "the number of validation days")
        part: dict[str, Any] = {"num_envs": len(days), "first_copy": days.start}
        mine = envs.make(**keywords | part)
        mine.reference = env.reference
        return mine

    def reward(self, env: VecEnv, mode: RewardMode) -> str:
        """In dollars."""
        scenario = _example(env).scenario
        scale, over = scenario.episode.reward_scale_usd, "sum" if mode == "sum" else "mean"
        return (
            f"{LEARNS_FROM[mode]} -(cost + penalty) / {scale:g} $ per {scenario.dt_h:g} h step; "
            f"the Reward column sums it over an episode, {over} of the agents"
        )

    def state(self, env: VecEnv) -> str:
        """Which of the two states."""
        return f"the {_example(env).settings.critic_state} state of {env.state_dim} numbers"

    def copies(self, env: VecEnv) -> str:
        """How many play the same day."""
        return f"{_example(env).group_size} copies play the same day"


def training_copies(num_workers: int, *, num_envs: int, first_copy: int = 0, **keywords: Any) -> VecEnv:
    """Copies to train on, in so many processes or in this one; `keywords` as of `envs.make`."""

    def make(copies: range) -> envs.MicrogridEnv:
        first: dict[str, Any] = {"first_copy": copies.start} if copies.start else {}
        return envs.make(**keywords, num_envs=len(copies), **first)

    if not num_workers:
        return make(range(first_copy, first_copy + num_envs))
    return SplitVecEnv(make, num_envs, num_workers, first_copy=first_copy)


def _check_workers(workers: int, request: Request, group_size: int) -> None:
    """Refuse workers that the copies or the device rule out."""
    if env_device(request.config.device).type != "cpu":
        raise ValueError(
            f"--num-workers must be 0 for --device {request.config.device}, where all copies are one batch, "
            f"got {workers}; leave it out, or give --device cpu"
        )
    check_workers(len(request.copies), workers, group_size)


def _example(env: VecEnv) -> envs.MicrogridEnv:
    """The env, or one of those that it is split into."""
    env = env.example if isinstance(env, SplitVecEnv) else env
    assert isinstance(env, envs.MicrogridEnv)
    return env


def stored_flags(spec: Mapping[str, Any]) -> MicrogridFlags:
    """The flags that a stored env was made with."""
    names = [field.name for field in fields(MicrogridFlags) if field.name in spec]
    mine = {name: spec[name] for name in names}
    return MicrogridFlags(**{"group_size": 1, **mine})  # runs from before there were groups had none


def _keywords(request: Request) -> dict[str, Any]:
    """Arguments of `envs.make`: those of the run that goes on, then the flags."""
    config, flags = request.config, request.microgrid
    plain = {name: value for name, value in asdict(flags).items() if name not in _SCENARIO_FLAGS}
    copies = request.copies
    keywords = {**request.stored, **plain, "num_envs": len(copies)}
    if request.ranks.count > 1:
        keywords["first_copy"] = copies.start
    if flags.profiles is not None:
        keywords = merged(keywords, own_data(flags.profiles, flags.scenario))
    if protocols := flags.protocols():
        keywords = merged(keywords, {"protocols": protocols})
    if flags.group_size is None:
        keywords["group_size"] = _default_group_size(request.num_envs, len(copies))
    return keywords | {"device": config.device, "seed": keywords.get("seed", config.seed)}


def _default_group_size(num_envs: int, on_one_rank: int) -> int:
    """8, or the largest divisor of a rank's copies below that leaves at least four groups of all `num_envs`."""
    most = min(DEFAULT_GROUP_SIZE, max(num_envs // 4, 1))
    return max(size for size in range(1, most + 1) if on_one_rank % size == 0)


def complete_reference(eval_env: envs.MicrogridEnv, say: Callable[[str], None], *, solve: bool = True) -> None:
    """Bounds of the validation days of a scenario whose reference is not shipped; solved once, then cached."""
    if eval_env.reference is not None or eval_env.scenario.horizon != "day":
        return
    if not solve:
        say("the score is -J: no bounds are shipped for this scenario, and --test does not solve them")
        return
    if solver_is_missing():
        say(f"the score is -J: no bounds are shipped for this scenario; to have them solved: {INSTALL}")
        return
    from envs.baselines.tree import check_provable  # noqa: PLC0415 - needs the extra

    try:
        check_provable(eval_env.scenario, eval_env.network)
    except ValueError as refused:
        say(f"the score is -J: {refused}")
        return
    if (buses := eval_env.network.num_buses) > BOUNDED_BUSES:
        say(f"the score is -J: bounds of {buses} buses take too long; `envs.baselines.day_reference` solves them")
        return
    days = eval_env.num_episodes
    say(f"no bounds are shipped for this scenario: its {days} validation days are solved once and kept")
    reference = baselines.day_reference(eval_env)
    dates = eval_env.episode_dates()
    _, bound_usd = reference.of_days(torch.tensor(list(dates)))
    unsolved = [str(date) for date, usd in zip(dates.values(), bound_usd.tolist(), strict=True) if isnan(usd)]
    if unsolved:
        say(f"no bound, so not part of the score, which is -J without any: {', '.join(unsolved)}")
    if len(unsolved) < days:
        eval_env.reference = reference
