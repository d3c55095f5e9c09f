"""Inputs beside an installed suite: `qdit fetch`, `qdit doctor`, the commands and the rules agree where they lie."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from qdit.core import repository
from qdit.workflow import fetch as fetching
from qdit.workflow.commands import Commands
from qdit.workflow.doctor import look_at
from qdit.workflow.fetch import NeededFile, files_of
from qdit.workflow.profile import load_profile
from tests.preloaded import SNAKEMAKE, python
from tests.workflow.checkout import Checkout, copied, jobs_of

VAE = Path("weights/paper/sd-vae-ft-mse/config.json")
CONTENT = b'{"_class_name": "AutoencoderKL"}'


@pytest.fixture(scope="module")
def paper() -> dict[str, Any]:
    return load_profile("paper")


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite as a wheel installs it, and an empty current folder."""
    folder, current = tmp_path / "site-packages" / "qdit" / "suite", tmp_path / "current"
    for path in (folder, current):
        path.mkdir(parents=True)
    monkeypatch.setattr(repository, "ROOT", folder)
    monkeypatch.chdir(current)
    return folder


def needed(profile: dict[str, Any], path: Path) -> NeededFile:
    return next(file for file in files_of(profile) if file.path == path)


def hub(**options: Any) -> str:
    """What `hf_hub_download` does: put the file into a folder."""
    arrived = Path(options["local_dir"], options["filename"])
    arrived.parent.mkdir(parents=True, exist_ok=True)
    arrived.write_bytes(CONTENT)
    return str(arrived)


def test_a_fetched_file_lies_in_the_current_folder_and_every_reader_finds_it(
    paper: dict[str, Any], suite: Path
) -> None:
    file, commands = needed(paper, VAE), Commands(paper, Path("results/paper"))
    assert commands.file(str(VAE)) == VAE and not look_at(file).ok
    assert fetching.fetch(file, hub=hub, allow_unverified=True)
    assert VAE.read_bytes() == CONTENT and not list(suite.iterdir())
    assert commands.file(str(VAE)) == VAE
    assert look_at(file).ok and look_at(file).text.startswith(f"{VAE}  ")
    assert not fetching.fetch(file, hub=hub)


def test_a_file_of_the_suite_is_found_and_not_fetched_again(paper: dict[str, Any], suite: Path) -> None:
    file, commands = needed(paper, VAE), Commands(paper, Path("results/paper"))
    (suite / VAE).parent.mkdir(parents=True)
    (suite / VAE).write_bytes(CONTENT)
    assert not fetching.fetch(file, hub=hub) and not VAE.exists()
    assert commands.file(str(VAE)) == suite / VAE
    assert look_at(file).ok and fetching.unverified([file]) == []
    VAE.parent.mkdir(parents=True)
    VAE.write_bytes(CONTENT)
    assert commands.file(str(VAE)) == VAE


@pytest.mark.ci
def test_the_paper_profile_is_planned_with_what_was_fetched_into_another_folder(
    paper: dict[str, Any], repository: Path, tmp_path: Path
) -> None:
    """Snakemake in a folder without a checkout, where every file but one was fetched."""
    suite, current = Checkout(copied(repository, tmp_path)), tmp_path / "a folder"
    files = {file.path for file in files_of(paper) if file.entry}
    missing = Path(paper["video"]["suite"])
    for path in files - {missing}:
        (current / path).parent.mkdir(parents=True, exist_ok=True)
        (current / path).write_bytes(b"not read by a plan")
    command = ["-m", "snakemake", "--dry-run", "--cores", "1", "--printshellcmds"]
    command += ["--snakefile", str(suite.root / "Snakefile"), "--configfile", str(suite.root / "config" / "paper.yaml")]
    environment = {"PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin", "HOME": str(tmp_path)}
    done = python(command, current, environment=environment, packages=SNAKEMAKE)
    assert done.returncode == 0, done.stdout + done.stderr
    shells = [line for line in done.stdout.splitlines() if line.startswith("Shell command: ")]
    assert [line for line in shells if "check-file" in line] == [
        line for line in shells if f"qdit check-file {missing} " in line
    ]
    assert sum(job.rule == "needed_file" for job in jobs_of(done.stdout)) == 1
    assert not [line for line in shells if f"{suite.root}/weights" in line]
    assert sum(" import-weights weights/paper/" in line for line in shells) == 3
    shutil.rmtree(current)
