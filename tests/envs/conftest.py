"""Shared fixtures of the environment tests."""

import pytest

from envs.scenario import Scenario, load_scenario


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return load_scenario("ieee34_ieee13")
