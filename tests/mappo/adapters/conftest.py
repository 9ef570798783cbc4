"""Shared fixtures of the adapters' tests."""

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import pytest

Children = Callable[[], list[BaseProcess]]


@pytest.fixture
def new_children() -> Iterator[Children]:
    """The processes a test has started, which must have ended: other tests' pools (the bounds' solvers) live on."""
    before = set(multiprocessing.active_children())

    def new() -> list[BaseProcess]:
        return [child for child in multiprocessing.active_children() if child not in before]

    yield new
    if new():
        gc.collect()
    assert not new(), f"left behind: {new()}"
