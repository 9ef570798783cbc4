"""Shared fixtures of the environment tests."""

from collections.abc import Iterator

import pytest
import torch

from envs.scenario import Scenario, load_scenario


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The batches here are small: a second thread gains nothing and waits for busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return load_scenario("ieee34_ieee13")
