"""`qdit run`: the snakemake call that makes tables of a profile, and the rows that it has to make."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.repository import ROOT
from qdit.core.run import Run
from qdit.workflow.profile import Profile, default_tables, profile_file, runs_of

DEFAULT = "mini"
"""The profile that the Snakefile takes by itself."""


def snakemake_command(targets: Sequence[str], names: Sequence[str], *, cores: str, folder: Path) -> list[str]:
    """The call of Snakemake that makes `targets` of the profile and its overlays, run in `folder`.

    In the checkout it is what the documentation says; elsewhere it names the Snakefile and its default options.
    """
    command = ["snakemake", "--cores", cores, *targets]
    if folder.resolve() != ROOT:
        command += ["--snakefile", str(ROOT / "Snakefile")]
        command += ["--workflow-profile", str(ROOT / "profiles" / "default")]
    overlays = [profile_file(name) for name in names]
    if list(names) != [DEFAULT]:
        command += ["--configfile", *map(str, overlays)]
    return command


def printed(command: Sequence[str]) -> str:
    """A command as a person types it."""
    return shlex.join(command)


def executable(command: Sequence[str]) -> list[str]:
    """The same with this environment's Python, whatever the PATH says."""
    return [sys.executable, "-m", *command]


def check_targets(profile: Profile, targets: Sequence[str]) -> list[str]:
    """Names of the tables to make: `targets`, or all default tables. ConfigError for a name that is no table."""
    for target in targets:
        if target not in profile["tables"]:
            known = ", ".join(profile["tables"])
            raise ConfigError(f"table {target!r}: allowed are {known}{did_you_mean(target, profile['tables'])}")
    return list(targets) or default_tables(profile)


def plan_text(profile: Profile, tables: Sequence[str], results: Path) -> str:
    """Rows of each table, and how many are measured already; the sum counts a row of two tables once."""
    lines = [f"{'table':<16} rows  measured"]
    every: set[Run] = set()
    for table in tables:
        runs = set(runs_of(profile, table))
        every |= runs
        lines.append(f"{table:<16} {len(runs):>4}  {_measured(runs, results):>8}")
    lines.append(f"{'all, each once':<16} {len(every):>4}  {_measured(every, results):>8}")
    return "\n".join(lines)


def _measured(runs: set[Run], results: Path) -> int:
    """How many runs have their metrics.json."""
    return sum((results / "runs" / run.path / "metrics.json").is_file() for run in runs)
