"""A copy of the repository in which the workflow runs and whose files tests may change."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.preloaded import EXECUTABLE, snakemake

PARTS = ("Snakefile", "environment.yml", "baselines", "config", "profiles", "qdit", "report", "results/published")
PARTS += ("rules", "tests/workflow", "weights")
OVERLAYS = ("tests/workflow/tiny.yaml", "tests/workflow/fewer.yaml")


@dataclass(frozen=True)
class Job:
    """A planned job: its rule and, where it belongs to a run, the method's label."""

    rule: str
    label: str | None


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository whose files tests may change."""

    root: Path
    printed: str = ""
    """What the run that made its results printed."""

    @property
    def results(self) -> Path:
        return self.root / "results" / "tiny"

    def command(self, *arguments: str, overlays: tuple[str, ...] = OVERLAYS) -> list[str]:
        return [str(EXECUTABLE), *arguments, "--configfile", *overlays]

    def snakemake(
        self,
        *arguments: str,
        overlays: tuple[str, ...] = OVERLAYS,
        code: int = 0,
        minutes: float = 10,
        own_server: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake; fails unless it exits with `code`, or after so many minutes.

        Its jobs are children of a command server that all runs of this checkout use, or of its own one, whose socket is
        then in the folder `own_server` for temporary files.
        """
        command = self.command(*arguments, overlays=overlays)
        environment = os.environ | ({"TMPDIR": str(own_server)} if own_server else {})
        server: Literal["own", "shared"] = "own" if own_server or "--dry-run" in arguments else "shared"
        done = snakemake(command[1:], self.root, server=server, environment=environment, timeout=60 * minutes)
        assert done.returncode == code, (
            f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def plan(self, *arguments: str, overlays: tuple[str, ...] = OVERLAYS) -> set[Job]:
        """Jobs that a dry run shows."""
        return jobs_of(self.dry_run(*arguments, overlays=overlays))

    def dry_run(self, *arguments: str, overlays: tuple[str, ...] = OVERLAYS) -> str:
        """What a dry run prints."""
        done = self.snakemake("--dry-run", *arguments, overlays=overlays)
        return done.stdout + done.stderr

    def tables(self) -> dict[str, bytes]:
        """Every rendered table."""
        contents = {path.name: path.read_bytes() for path in (self.results / "tables").iterdir()}
        assert len(contents) == 8
        return contents

    @contextmanager
    def edited(self, *names: str) -> Iterator[None]:
        """Some source files with a comment more."""
        before = {name: (self.root / name).read_text(encoding="utf-8") for name in names}
        try:
            for name, text in before.items():
                (self.root / name).write_text(f"{text}\n# edited\n", encoding="utf-8")
            yield
        finally:
            for name, text in before.items():
                (self.root / name).write_text(text, encoding="utf-8")


def jobs_of(printed: str) -> set[Job]:
    """Jobs that the output of a dry run shows."""
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", printed, flags=re.MULTILINE)
    matches = {(rule, re.search(r"wildcards: .*?label=([^,\n]+)", text)) for rule, text in blocks}
    return {Job(rule, match[1] if match else None) for rule, match in matches}


def copied(repository: Path, folder: Path, *, extra: tuple[str, ...] = ()) -> Path:
    """A copy of what the workflow needs and of `extra` files, without results, in a folder whose name has a space."""
    root = folder / "a checkout"
    for name in (*PARTS, *extra):
        source, target = repository / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return root
