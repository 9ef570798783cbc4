"""Shared by the tests of the power flow."""

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    """pandapower's own cases are built with calls that pandas and pandapower deprecate."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=r"pandapower|pandas|numpy")
        yield
