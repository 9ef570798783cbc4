"""Settings of the whole suite."""

import os

import pytest
import torch

# Scripts that tests start have one thread as well: with two workers of xdist, more would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The batches of the tests are small: a second thread gains nothing, and waits when another program needs the core.
    torch.set_num_threads(1)
