"""The folder that an evaluation is written to: all files or none.

Data flow: name -> bytes -> temporary files -> renamed together. Old files of other names stay.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Make the folder before the work starts, so that it fails early; where the work fails, take it away again.

    Raises:
        ValueError: it cannot be written to.
    """
    made: list[Path] = []
    probe = folder / f".evaluation.{os.getpid()}.tmp"
    try:
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir()
                made.append(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        _remove(made)
        raise ValueError(f"--out must be a folder that can be written to; got {folder}: {error.strerror}") from error
    try:
        yield
    except BaseException:
        _remove(made)
        raise


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write every file under a temporary name, then rename all of them.

    Args:
        folder: exists.
        files: relative name, at most one folder deep -> content.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for name, content in files.items():
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            written.append((temporary, target))
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, target in written:
            temporary.replace(target)
    finally:
        for temporary, _ in written:
            temporary.unlink(missing_ok=True)


def _remove(folders: list[Path]) -> None:
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # something is in it by now
            folder.rmdir()
