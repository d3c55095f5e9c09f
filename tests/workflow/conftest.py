"""The checkout in which the workflow has run on few images, once for all tests of this folder."""

from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, copied


@pytest.fixture(scope="session")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The copy, after an undisturbed run."""
    made = Checkout(copied(repository, tmp_path_factory.mktemp("workflow")))
    made.snakemake("--cores", "2")
    return made
