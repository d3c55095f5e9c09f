"""Random SIGKILLs during the tiny workflow: the same command, called again and again, ends with the same bytes.

Opt-in (slow, about 15 minutes on two cores; the rows with replicates alone a few minutes). QDIT_KILLS,
QDIT_KILLS_SEED and QDIT_KILLS_OVERLAYS change what is run.
"""

import os
import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.workflow.checkout import Checkout, copied

KILLS = int(os.environ.get("QDIT_KILLS", "20"))
SEED = int(os.environ.get("QDIT_KILLS_SEED", "20"))
OVERLAYS = tuple(os.environ.get("QDIT_KILLS_OVERLAYS", "tests/workflow/tiny.yaml").split())
REPLICATES = "tests/workflow/replicates.yaml"
RUN = ("--cores", "2")
MINUTES = 60
"""A run that was not killed may take this long: other programs may use the machine too."""


TIMES = (".times.json", ".benchmark.json")
"""Files of measured times: they differ from run to run."""


def killed_after(checkout: Checkout, seconds: float, arguments: Sequence[str], overlays: tuple[str, ...]) -> bool:
    """Run the workflow, and after a while kill it and all that it started; False if it was at its end before."""
    command = checkout.command(*arguments, overlays=overlays)
    with subprocess.Popen(command, cwd=checkout.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            running.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            program = psutil.Process(running.pid)
            processes = [program, *program.children(recursive=True)]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, timeout=30)
            return True
    assert running.returncode == 0, "a run that was not disturbed must succeed"
    return False


def outcome(results: Path) -> dict[str, bytes]:
    """Every file of results: tables, CSV files, metrics, chunks of samples, checkpoints, allocations; no times."""
    kinds = ["tables/*.*", "*.csv", "runs/**/metrics.json", "runs/**/samples/*", "runs/**/checkpoint/*"]
    kinds += ["search/**/*.json"]
    files = {file for kind in kinds for file in results.glob(kind) if not file.name.endswith(TIMES)}
    return {str(file.relative_to(results)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_random_kills_change_no_byte(repository: Path, tmp_path: Path) -> None:
    first = disturbed(repository, tmp_path, RUN, OVERLAYS, kills=KILLS)
    assert len(first) > 10


@pytest.mark.slow
def test_random_kills_of_replicates_change_no_byte(repository: Path, tmp_path: Path) -> None:
    """Rows with replicates: one method that draws, one that copies the samples of replicate 0, one with a search."""
    labels, endings = ("rtn", "repq-vit", "q-dit"), ("", "-r1", "-r2")
    rows = [f"runs/digits-cfg1.0-s20/natural/{label}/w4a8-common{end}" for label in labels for end in endings]
    targets = [f"results/tiny/{row}/metrics.json" for row in rows]
    first = disturbed(repository, tmp_path, (*RUN, *targets), (*OVERLAYS, REPLICATES), kills=max(8, KILLS // 2))
    for label in labels:
        measured = [name for name in first if f"/{label}/w4a8-common" in name and name.endswith("metrics.json")]
        assert len(measured) == 3, f"{label}: replicates 0, 1 and 2"
    assert any(name.startswith("search/") and name.endswith("-r1.json") for name in first)


def disturbed(
    repository: Path, tmp_path: Path, arguments: Sequence[str], overlays: tuple[str, ...], *, kills: int
) -> dict[str, bytes]:
    """Files of an undisturbed run, which a run with random kills must equal byte by byte."""
    undisturbed, killed = (Checkout(copied(repository, tmp_path / name)) for name in ("undisturbed", "killed"))
    start = time.monotonic()
    undisturbed.snakemake("--dry-run", *arguments, overlays=overlays)
    planning = time.monotonic() - start
    undisturbed.snakemake(*arguments, overlays=overlays, minutes=MINUTES)
    working = max(1.0, time.monotonic() - start - 2 * planning)

    moments, landed = random.Random(SEED), 0
    for _ in range(kills):
        landed += killed_after(killed, planning + moments.uniform(0, 2) * working / kills, arguments, overlays)
    assert landed >= kills // 2, f"only {landed} of {kills} kills came before the end"
    killed.snakemake(*arguments, overlays=overlays, minutes=MINUTES)
    assert "Nothing to be done" in killed.snakemake(*arguments, overlays=overlays).stderr

    first, second = outcome(undisturbed.results), outcome(killed.results)
    assert first and first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    return first
