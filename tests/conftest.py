"""What all tests share: one thread, so that sums do not depend on the machine, and where the repository is.

With pytest-xdist (`make test`) the tests of a file run in one process, since they share what is costly.
"""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

FIRST = ("tests/workflow/",)
"""Tests that take longest start first, so that no process waits for the other at the end."""


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take longest first."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))
