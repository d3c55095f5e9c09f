"""`qdit run`: the whole workflow, or some of its tables, for people who do not know Snakemake."""

import os
from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import MINI, Profile
from qdit.core.errors import ConfigError
from qdit.core.processes import require_cores


def run(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tables to make, or other targets: all, ab, claims_rows, figures, training, training_fashion,"
            " search_study, power_study, outliers, outliers_fashion, bench_kernels, bench_sampling, bench_memory,"
            " bench_ranges. Default: all."
        ),
    ] = None,
    profile: Profile = MINI,
    cores: Annotated[str, typer.Option(help="Number of processor cores, or all.")] = "all",
    row: Annotated[
        list[str] | None,
        typer.Option(
            help="Make only this row, named by table, method and bits, e.g. 'table2 q-dit w4a8'; or all rows with this"
            " in their path, e.g. q-dit/w4a8. No page is made. Repeat it for more."
        ),
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="With --row: test every step with only 64 images, in results/PROFILE-smoke.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print rows, time, disk and the command; run nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the whole output of Snakemake.")] = False,
) -> None:
    """Make tables, with all missing steps before them.

    The command prints the snakemake call and runs it. Results go to results/PROFILE/ below the current folder. The last
    lines name the pages. A second call makes only what is missing. This is also true after Ctrl-C or a crash.

    With --row the command also makes the full-precision row of the same setting. At the end it prints our numbers
    beside those of the paper. A later call for the whole table uses the files of the row.

    claims_rows makes the rows that the papers' claims read, and the page of claims.

    \b
    Examples:
      qdit run table2
      qdit run ab
      qdit run claims_rows --profile mini-damage
      qdit run table2 --profile mini --cores 2 --dry-run
      qdit run table2 --row q-dit/w4a8 --row rtn/w4a8
      qdit run --row "table2 q-dit w4a8" --smoke
      qdit run --row "table2 q-dit w4a8" --profile paper --dry-run
      qdit run --profile mini --profile my.yaml
    """
    from qdit.report.pages.one_row import beside_published
    from qdit.workflow.one_row import (
        named_rows,
        plan_lines,
        require_files,
        rows_by_table,
        rows_of_row,
        smoke_ending,
        smoke_profile,
    )
    from qdit.workflow.profile import load_profile
    from qdit.workflow.replicates import with_replicates
    from qdit.workflow.run import (
        call,
        executable,
        gpus_for,
        plan_text,
        printed,
        require_room_for,
        row_targets,
        rows_of,
        snakemake_command,
    )
    from qdit.workflow.targets import AB, CLAIMS_ROWS, ab_runs, check_tables, check_targets, unestimated

    if cores != "all" and not (cores.isdecimal() and int(cores) > 0):
        raise ConfigError(f"--cores {cores}: expected a number of at least 1, or all")
    if cores != "all":
        require_cores("--cores", int(cores))
    loaded, layers = load_profile(*profile), list(profile)
    if smoke:
        if not row:
            raise ConfigError("--smoke: found no --row; name the row to try, e.g. --row 'table2 q-dit w4a8'")
        loaded, layers = smoke_profile(layers)
    results = Path("results", loaded["profile"])
    table_names = check_tables(loaded, tables or []) if row else check_targets(loaded, tables or [])
    table_rows, patterns = named_rows(loaded, row or [], tables or [])
    rows = rows_of(loaded, table_names, patterns) if patterns or not row else {}
    rows = rows_by_table(loaded, table_rows, rows)
    if AB in (tables or []):
        rows[AB] = ab_runs(loaded)
    if CLAIMS_ROWS in (tables or []):
        from qdit.report.claims.rows_read import rows_read

        rows[CLAIMS_ROWS] = with_replicates(loaded, rows_read(loaded))
    targets = row_targets((run for runs in rows.values() for run in runs), results) if row else tables or []
    command = snakemake_command(targets, layers, cores=cores, folder=Path.cwd(), verbose=verbose, gpus=gpus_for(loaded))
    for line in plan_lines(loaded, table_rows, results):
        typer.echo(line)
    if dry_run:
        count = (os.cpu_count() or 1) if cores == "all" else int(cores)
        typer.echo(plan_text(loaded, rows, results, cores=count))
        for line in unestimated(tables or []):
            typer.echo(line)
    else:
        require_files(loaded, table_rows, profile)
        require_room_for(loaded, rows, results)
    typer.echo(printed(command))
    if dry_run:
        return
    code = call(executable(command))
    for table_row in table_rows if code == 0 else []:
        pair = rows_of_row(loaded, table_row)
        published = beside_published(loaded, table_row.table, pair, results)
        typer.echo(smoke_ending(table_row, results) if smoke else published)
    raise typer.Exit(code)
