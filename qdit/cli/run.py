"""`qdit run`: the whole workflow, or some of its tables, for people who do not know Snakemake."""

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from qdit.core.errors import ConfigError


def run(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables to make; all default tables without one.")] = None,
    profile: Annotated[
        list[str], typer.Option("--profile", "--config", help="Profile: a name or a file; again for overlays.")
    ] = ["mini"],  # noqa: B006
    cores: Annotated[str, typer.Option(help="Processor cores to use: a number, or all.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the rows and the command; run nothing.")] = False,
) -> None:
    """Make tables: every step that is missing, from the weights to the page.

    Prints the snakemake call and runs it. Results go to results/<profile>/ below the current folder. A second call
    makes only what is missing; a killed one goes on where it was.

    \b
    Example:
      qdit run table2
      qdit run --profile mini --profile my.yaml --dry-run
    """
    from qdit.workflow.profile import load_profile
    from qdit.workflow.run import check_targets, executable, plan_text, printed, snakemake_command

    if cores != "all" and not (cores.isdecimal() and int(cores) > 0):
        raise ConfigError(f"--cores {cores}: expected a number of at least 1, or all")
    loaded = load_profile(*profile)
    wanted = check_targets(loaded, tables or [])
    command = snakemake_command(tables or [], profile, cores=cores, folder=Path.cwd())
    if dry_run:
        typer.echo(plan_text(loaded, wanted, Path("results", loaded["profile"])))
    typer.echo(printed(command))
    if not dry_run:
        raise typer.Exit(subprocess.run(executable(command), check=False).returncode)
