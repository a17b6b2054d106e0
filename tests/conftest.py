"""What every test starts from: one thread, since the workers share the cores, and seeded global generators."""

import numpy as np
import pytest
import torch


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that serve as oracles draw from it
