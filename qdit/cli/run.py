"""`qdit run`: the whole workflow, or some of its tables, for people who do not know Snakemake."""

import subprocess
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the rows and the command; run nothing.")] = False,
) -> None:
    """Make tables, with every step before them that is missing.

    The snakemake call is printed and run. Results go to results/PROFILE/ below the current folder. A second call makes
    only what is missing, also after a call that was killed.

    \b
    Examples:
      qdit run table2
      qdit run --profile mini --profile my.yaml --dry-run
    """
    from qdit.workflow.profile import load_profile
    from qdit.workflow.run import check_targets, executable, plan_text, printed, snakemake_command

    if cores != "all" and not (cores.isdecimal() and int(cores) > 0):
        raise ConfigError(f"--cores {cores}: expected a number of at least 1, or all")
    if cores != "all":
        require_cores("--cores", int(cores))
    loaded = load_profile(*profile)
    wanted = check_targets(loaded, tables or [])
    command = snakemake_command(tables or [], profile, cores=cores, folder=Path.cwd())
    if dry_run:
        typer.echo(plan_text(loaded, wanted, Path("results", loaded["profile"])))
    typer.echo(printed(command))
    if not dry_run:
        raise typer.Exit(subprocess.run(executable(command), check=False).returncode)
