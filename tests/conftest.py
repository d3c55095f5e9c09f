"""What all tests share: one thread, so that sums do not depend on the machine, and where the repository is.

With pytest-xdist (`make test`) the tests of a file run in one process, since they share what is costly. So do all tests
that need the checkout in which the workflow has run (`tests/workflow/conftest.py`), which is made once.
"""

import gc
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, settings

typer.main.get_command = cache(typer.main.get_command)
"""The tree of commands is the same at each call, and takes longer to make than most commands take."""

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
"""No test depends on the speed of the machine."""

LONGEST = (
    "checkout",
    "tests/kernels/test_triton.py",
    "tests/workflow/test_video.py",
    "tests/baselines/test_contract.py",
    "tests/workflow/test_tutorial.py",
    "tests/test_project.py",
    "paper_plan",
    "tests/workflow/test_methods.py",
    "tests/workflow/test_one_row.py",
    "tests/search/test_run.py",
    "tests/workflow/test_odd_paths.py",
    "tests/test_preloaded.py",
    "tests/workflow/test_pipelines_plan.py",
    "tests/workflow/test_one_loader.py",
    "tests/workflow/test_latent_video.py",
)
"""Groups and files whose tests take longest start first, so that no process waits for the other at the end."""

TOGETHER = {"checkout": ("explain", "figures", "plan", "run"), "paper_plan": ("paper", "slurm")}
"""Costly fixture → the files `tests/workflow/test_….py` whose tests use it; one process runs all of them."""


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def folder_of_the_call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a call of pytest share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if hasattr(request.config, "workerinput") else folder


@pytest.fixture(autouse=True)
def variables_of_one_test() -> Iterator[None]:
    """QDIT_KERNELS is read once; what a test has set must not stay for the next one."""
    yield
    if (backend := sys.modules.get("qdit.kernels.backend")) is not None:
        backend.forced.cache_clear()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """One thread of torch; what is imported here stays, so no collection of garbage looks at it again.

    The process that only hands out tests (`--numprocesses`) does not import torch.
    """
    if getattr(session.config.option, "numprocesses", None) and not hasattr(session.config, "workerinput"):
        return (yield)
    import torch

    torch.set_num_threads(1)
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    """Everything is garbage again: libraries report what is left at the end."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that take longest first; refuse a file that would make a costly fixture in a second process."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(process_of(item.nodeid.partition("::")[0]), len(ranks)))
    for item in items:
        for fixture in TOGETHER.keys() & set(getattr(item, "fixturenames", ())):
            if process_of(file := item.nodeid.partition("::")[0]) != fixture:
                raise pytest.UsageError(f"{file} uses the fixture {fixture}; add it to TOGETHER in tests/conftest.py")


def process_of(file: str) -> str:
    """What the tests of one process have in common: a costly fixture, otherwise their file."""
    shared = {f"tests/workflow/test_{name}.py": fixture for fixture, names in TOGETHER.items() for name in names}
    return shared.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file run in one process, and those of TOGETHER too."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_of(super()._split_scope(nodeid))

    return Scheduling(config, log)
