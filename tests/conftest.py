"""What all tests share: one thread, so that sums do not depend on the machine, and where the repository is.

With pytest-xdist (`make test`) tests that share something costly run in one process: those of a file; those of one
method in the contract tests; those of the workflow that has run.
"""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

FIRST = ("workflow", "tests/workflow/test_paper.py", "tests/workflow/test_video.py")
"""Groups that take longest; they start first, so that no process waits for the other at the end."""


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


def group_of(item: pytest.Item) -> str:
    """Name of the tests that run in one process with this one."""
    if "checkout" in getattr(item, "fixturenames", ()):
        return "workflow"
    file = item.nodeid.partition("::")[0]
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return f"{file}:{parameters['name']}" if file.endswith("test_contract.py") and "name" in parameters else file


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the groups for `--dist loadgroup`, and put those that take longest first."""
    groups = {item: group_of(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: FIRST.index(groups[item]) if groups[item] in FIRST else len(FIRST))
