"""The runs that are compared: their policies, all of one environment, and which are seeds of one configuration.

Data flow: paths -> checkpoints -> `Run` -> `evaluate.py`; configs -> groups of seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import common_stem, configuration_key, env_keywords, read_checkpoint
from environments import Family, family_of, is_same

import envs
from envs.baselines import BASELINES
from envs.scenario import Scenario
from envs.settings import EnvSettings
from mappo import Policy, VecEnv, load_policy
from mappo.checkpoint import check_fits, unpacking
from mappo.run_folder import RunFolder
from mappo.spaces import EnvSpec

STATE = ("state_dim", "state_names")  # only critics see the state
NAMES = (*BASELINES, "random", "idle")
"""What runs are compared with; a run of that name is renamed."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trained policy."""

    name: str
    folder: Path
    """Of the run; where its evaluation is written."""
    policy: Policy
    family: Family
    """Kind of its environment."""
    env_keywords: Mapping[str, Any]
    """Spec of its env, which rebuilds it; of a microgrid the arguments of `envs.make`."""
    configuration: str
    """Equal for seeds of one configuration."""
    facts: Mapping[str, Any]
    """checkpoint, seed, algo, iteration."""

    @property
    def text(self) -> str:
        """What `--env` says of its environment."""
        return self.family.text_of(self.env_keywords)


def load_runs(paths: Sequence[str]) -> list[Run]:
    """Load every run and check that all belong to one environment.

    Raises:
        ValueError: no path, one given twice, no run there, or another environment than the first run's.
    """
    if not paths:
        raise ValueError("give at least one run folder: python scripts/evaluate.py runs/<run>")
    checkpoints = [read_checkpoint(path) for path in paths]
    files = [Path(checkpoint["path"]).resolve() for checkpoint in checkpoints]
    for i, file in enumerate(files):
        if file in files[:i]:
            raise ValueError(f"every run must be given once, got {file} twice")
    folders = [_folder(path, checkpoint) for path, checkpoint in zip(paths, checkpoints, strict=True)]
    runs = [
        _load(f"run {name}" if name in NAMES else name, folder, checkpoint)
        for name, folder, checkpoint in zip(_names(folders, files), folders, checkpoints, strict=True)
    ]
    _check_environments(runs)
    return runs


def groups_of_seeds(runs: Sequence[Run]) -> tuple[dict[str, list[str]], list[str]]:
    """Runs of equal configuration and different seeds, name -> runs; and notes on what is no group."""
    groups: dict[str, list[str]] = {}
    notes: list[str] = []
    for configuration in dict.fromkeys(run.configuration for run in runs):
        members = [run for run in runs if run.configuration == configuration]
        seeds = [run.facts["seed"] for run in members]
        if len(members) < 2:
            continue
        if len(set(seeds)) < len(seeds):
            same = ", ".join(run.name for run in members)
            notes.append(f"{same} are not summarised: several have the same seed")
            continue
        stem = common_stem([run.name for run in members]) or members[0].facts["algo"]
        name = f"{stem}, {len(members)} seeds"
        groups[name if name not in groups else f"{name} ({len(groups) + 1})"] = [run.name for run in members]
    return groups, notes


def _load(name: str, folder: Path, checkpoint: Mapping[str, Any]) -> Run:
    keywords = env_keywords(dict(checkpoint))
    path = checkpoint["path"]
    with unpacking(path):
        config, progress = dict(checkpoint["config"]), checkpoint["progress"]
        facts = {"checkpoint": path, "seed": config["seed"], "algo": config["algo"], "iteration": progress["iteration"]}
        return Run(
            name=name,
            folder=folder,
            policy=load_policy(path),
            family=family_of(keywords, path),
            env_keywords=keywords,
            configuration=configuration_key(config, keywords),
            facts=facts,
        )


def check_fit(run: Run, env: VecEnv) -> None:
    """Raise a ValueError that names what differs where the policy does not fit the env."""
    check_fits(run.policy.spec, EnvSpec.of(env), run.facts["checkpoint"], ignoring=STATE)


def _folder(path: str, checkpoint: Mapping[str, Any]) -> Path:
    """The run's folder: as given, or the one that a checkpoint file belongs to."""
    if Path(path).is_dir():
        return Path(path)
    file = Path(checkpoint["path"])
    with unpacking(file):
        run = RunFolder.of_checkpoint(file, checkpoint["run_dir"], checkpoint["config"].get("checkpoint_dir"))
    return file.parent if run is None else run.path


def _names(folders: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """The folders' names; where they are not different, with parent or checkpoint."""
    for names in (
        [folder.resolve().name for folder in folders],
        ["/".join(folder.resolve().parts[-2:]) for folder in folders],
        [f"{folder.resolve().name}/{file.name}" for folder, file in zip(folders, files, strict=True)],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _check_environments(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs:
        if not is_same(run.text, first.text):
            raise ValueError(
                f"runs must be of one environment: {run.name} was trained on {run.text}, {first.name} on {first.text}. "
                "Evaluate them one by one"
            )
    if first.family.plays == "days":
        _check_scenarios(runs)


def _check_scenarios(runs: Sequence[Run]) -> None:
    first = runs[0]
    settings = EnvSettings.__dataclass_fields__
    described = [{k: v for k, v in run.env_keywords.items() if k not in settings} for run in runs]
    if all(content == described[0] for content in described):
        return
    scenarios = [envs.make(**content).scenario for content in described]
    for run, scenario in zip(runs, scenarios, strict=True):
        if scenario != scenarios[0]:
            raise ValueError(
                f"runs must be of one scenario: {run.name} was trained on {_described(run, scenario)}, {first.name} on "
                f"{_described(first, scenarios[0])}{_difference(scenarios[0], scenario)}. Evaluate them one by one"
            )


def _described(run: Run, scenario: Scenario) -> str:
    """Name, and the file where it is not a packaged one."""
    given = str(run.env_keywords["scenario"])
    return repr(scenario.name) if given == scenario.name else f"{scenario.name!r} ({given})"


def _difference(first: Scenario, other: Scenario) -> str:
    """Keys that differ where the names do not tell."""
    if first.name != other.name:
        return ""
    mine, theirs = first.model_dump(), other.model_dump()
    keys = [key for key in mine if mine[key] != theirs[key]]
    return f", which differ in {', '.join(keys)}"
