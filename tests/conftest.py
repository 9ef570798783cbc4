"""Settings of the whole suite."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # The batches of the tests are small: a second thread gains nothing, and waits when another program needs the core.
    torch.set_num_threads(1)
