"""A checkout in which the workflow has run on few images, one in which nothing ran, and plans of it: each made once."""

from pathlib import Path

import pytest
from filelock import FileLock

from tests.workflow.checkout import Checkout, copied

SPECIAL_TABLES = ("transfer", "integer", "differences")
"""Tables that are made only when they are named."""


@pytest.fixture(scope="session")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The copy, after an undisturbed run on a shared command server. A run with its own one is in test_odd_paths.py."""
    copy = Checkout(copied(repository, tmp_path_factory.mktemp("workflow")))
    done = copy.snakemake("--cores", "2")
    return Checkout(copy.root, done.stdout)


@pytest.fixture(scope="session")
def plain(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which nothing has run."""
    return Checkout(copied(repository, tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="session")
def tiny_plan(plain: Checkout, folder_of_the_call: Path) -> str:
    """Every job of the tiny profile with its command, planned once for all processes of a call of pytest."""
    path = folder_of_the_call / "tiny_plan"
    with FileLock(folder_of_the_call / ".tiny_plan.lock"):
        if not path.exists():
            arguments = ("--forceall", "--printshellcmds", "all", *SPECIAL_TABLES)
            path.write_text(plain.dry_run(*arguments, overlays=("tests/workflow/tiny.yaml",)), encoding="utf-8")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def paper_plan(plain: Checkout) -> str:
    """Every job of the full reproduction with its command, as it is planned for a cluster."""
    arguments = ("--printshellcmds", "--workflow-profile", "profiles/slurm")
    return plain.dry_run(*arguments, overlays=("config/paper.yaml",))
