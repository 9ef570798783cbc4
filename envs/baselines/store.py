"""Solved days on disk, under a key that hashes everything they depend on.

Data flow: `DaySolution` by day <-> runs/.cache/bounds/<scenario>-<split>-<key>.npz. A file that cannot be read is
rebuilt, with a warning.
"""

import hashlib
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from envs.baselines.certificate import TOLERANCE, DaySolution
from envs.baselines.tree import Tree
from envs.devices import Applied
from envs.exogenous import ExogenousDay
from envs.profiles import Split
from envs.scenario import Scenario

VERSION = 3  # of the program and of the file; a change of either makes old files unknown
Row = tuple[DaySolution, float]
"""A day's solution and its floor in $."""
Solved = dict[int, Row]
"""By day of the data."""
_SPARSE_FIELDS = ("from_parent", "devices")
_NUMBERS = tuple(name for name in DaySolution._fields if name not in ("set_points", "status"))


def default_cache() -> Path:
    """Where solved days are kept, seen from the working directory."""
    return Path("runs") / ".cache" / "bounds"


@dataclass(frozen=True)
class BoundStore:
    """The file of one scenario, its data and a split; without a path nothing is kept."""

    path: Path | None

    @classmethod
    def of(cls, scenario: Scenario, today: ExogenousDay, split: Split, folder: Path | None) -> "BoundStore":
        """The file in `folder` that fits; None keeps nothing.

        Args:
            scenario: every key counts but name and description.
            today: the days of the whole split, whose numbers count.
            split: names the file.
            folder: of all files.
        """
        if folder is None:
            return cls(None)
        digest = hashlib.sha256()
        content = scenario.model_dump_json(exclude={"name", "description"})
        digest.update(f"{VERSION} {TOLERANCE} {split} {content}".encode())
        for values in (*_tree_arrays(Tree.of(scenario)), today.price, today.load, today.renewables_mw):
            digest.update(np.ascontiguousarray(values).tobytes())
        return cls(folder / f"{scenario.name}-{split}-{digest.hexdigest()[:16]}.npz")

    def read(self) -> Solved:
        """What is kept; a damaged file counts as empty, with a warning."""
        if self.path is None or not self.path.is_file():
            return {}
        try:
            # numpy leaves a file that it opened itself open where it is damaged
            with self.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            return _unpacked(content)
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())
            warnings.warn(f"the cache {self.path} is damaged ({reason}); its days are solved again", stacklevel=3)
            return {}

    def write(self, solved: Solved) -> None:
        """Keep the solved ones of these days, in place of what was there; readers see the old file or the new one."""
        solved = {day: row for day, row in solved.items() if np.isfinite(row[0].certified_usd)}
        if self.path is None or not solved:
            return
        try:
            self._replace(self.path, solved)
        except OSError as error:
            warnings.warn(f"the cache {self.path} cannot be written ({error.strerror}); nothing is kept", stacklevel=3)

    @staticmethod
    def _replace(path: Path, solved: Solved) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **_packed(solved))
            Path(name).chmod(0o644)  # a temporary file is its owner's alone
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _tree_arrays(tree: Tree) -> list[np.ndarray]:
    matrices = [tree.from_parent, *tree.devices.values()]
    sparse = [part for matrix in matrices for part in (matrix.indptr, matrix.indices, matrix.data)]
    plain = [np.asarray(getattr(tree, field.name)) for field in fields(tree) if field.name not in _SPARSE_FIELDS]
    return [*plain, *sparse]


def _packed(solved: Solved) -> dict[str, np.ndarray]:
    solutions = [solution for solution, _ in solved.values()]
    content = {name: np.array([getattr(solution, name) for solution in solutions]) for name in _NUMBERS}
    content |= {"day": np.array(list(solved)), "floor_usd": np.array([floor for _, floor in solved.values()])}
    content["status"] = np.array([solution.status for solution in solutions])
    for k, name in enumerate(Applied._fields):
        content[name] = torch.stack([solution.set_points[k] for solution in solutions]).numpy()
    return content


def _unpacked(content: dict[str, np.ndarray]) -> Solved:
    sizes = {len(values) for values in content.values()}
    if len(sizes) != 1:
        raise ValueError(f"its columns have lengths {sorted(sizes)}")
    solved: Solved = {}
    for i, day in enumerate(content["day"].tolist()):
        numbers = {name: float(content[name][i]) for name in _NUMBERS}
        points = Applied(*(torch.from_numpy(content[name][i]) for name in Applied._fields))
        solution = DaySolution(**numbers, set_points=points, status=str(content["status"][i]))
        solved[day] = (solution, float(content["floor_usd"][i]))
    return solved
