"""The checkout in which the workflow has run on few images, once for all tests of this folder."""

import shutil
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout

PARTS = ("Snakefile", "environment.yml", "baselines", "config", "profiles", "qdit", "report", "results/published")
PARTS += ("rules", "tests/workflow", "weights")


@pytest.fixture(scope="session")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The copy, after an undisturbed run."""
    root = tmp_path_factory.mktemp("workflow") / "a checkout"
    for part in PARTS:
        source, target = repository / part, root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    made = Checkout(root)
    made.snakemake("--cores", "2")
    return made
