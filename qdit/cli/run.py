"""`qdit run`: the whole workflow, or some of its tables, for people who do not know Snakemake."""

import os
from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import MINI, Profile
from qdit.core.errors import ConfigError
from qdit.core.processes import require_cores


def run(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables to make; default: all default tables.")] = None,
    profile: Profile = MINI,
    cores: Annotated[str, typer.Option(help="Number of processor cores, or all.")] = "all",
    row: Annotated[
        list[str] | None,
        typer.Option(help="Make only rows with this in their path, e.g. q-dit/w4a8, and no page. Repeat it for more."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print rows, time, disk and the command; run nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all that Snakemake says.")] = False,
) -> None:
    """Make tables, with all missing steps before them.

    The command prints the snakemake call and runs it. Results go to results/PROFILE/ below the current folder. The last
    lines name the pages. A second call makes only what is missing, also after Ctrl-C or a crash.

    \b
    Examples:
      qdit run table2
      qdit run table2 --profile mini --cores 2 --dry-run
      qdit run table2 --row q-dit/w4a8 --row rtn/w4a8
      qdit run --profile mini --profile my.yaml
    """
    from qdit.workflow.profile import load_profile
    from qdit.workflow.run import (
        call,
        check_targets,
        executable,
        plan_text,
        printed,
        require_room_for,
        row_targets,
        rows_of,
        snakemake_command,
    )

    if cores != "all" and not (cores.isdecimal() and int(cores) > 0):
        raise ConfigError(f"--cores {cores}: expected a number of at least 1, or all")
    if cores != "all":
        require_cores("--cores", int(cores))
    loaded = load_profile(*profile)
    results = Path("results", loaded["profile"])
    rows = rows_of(loaded, check_targets(loaded, tables or []), row or [])
    targets = row_targets((run for runs in rows.values() for run in runs), results) if row else tables or []
    command = snakemake_command(targets, profile, cores=cores, folder=Path.cwd(), verbose=verbose)
    if dry_run:
        count = (os.cpu_count() or 1) if cores == "all" else int(cores)
        typer.echo(plan_text(loaded, rows, results, cores=count))
    else:
        require_room_for(loaded, rows, results)
    typer.echo(printed(command))
    if not dry_run:
        raise typer.Exit(call(executable(command)))
