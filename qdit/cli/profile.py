"""The commands that read a profile: table, check-rows, times, validate, ls, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import MINI, Profile, Results, named_file, results_folder


def table(
    name: Annotated[str, typer.Argument(help="Table of the profile, e.g. table2.")],
    profile: Profile = MINI,
    results: Results = None,
    out: Annotated[
        Path | None,
        typer.Option(callback=named_file, help="Path of the files without suffix; default RESULTS/tables/NAME."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Show the rows that have a result, and how many are still to come.")
    ] = False,
) -> None:
    """Render a table in four formats.

    The formats are CSV, Markdown, LaTeX and HTML. Published values stand beside our values. A run without numbers shows
    the reason.

    \b
    Examples:
      qdit table table2
      qdit table table2 --partial --out results/mini/tables/table2-so-far
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.build import build_table
    from qdit.workflow.profile import load_profile
    from qdit.workflow.targets import check_tables

    loaded = load_profile(*profile)
    check_tables(loaded, [name])
    folder = results_folder(loaded, results)
    require_results(folder)
    for path in build_table(loaded, name, folder, out or folder / "tables" / name, partial=partial):
        typer.echo(path)


def check_rows(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables of the profile; default: all default tables.")
    ] = None,
    profile: Profile = MINI,
    results: Results = None,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file to write if no row failed. It lists the rows that their method does not support."),
    ] = None,
) -> None:
    """List the rows whose method failed.

    The command shows the reason and the log of each row. It counts rows that are not measured yet. The exit code is 1
    if a row failed. A row that the method does not support is not a failure. The workflow runs this command last.

    \b
    Example:
      qdit check-rows table2
    """
    from qdit.core.files import write_json
    from qdit.report.data.presence import require_results
    from qdit.workflow.profile import load_profile
    from qdit.workflow.rows import failed_rows, summary, unmeasured
    from qdit.workflow.targets import check_tables

    loaded = load_profile(*profile)
    folder, table_names = results_folder(loaded, results), check_tables(loaded, tables or [])
    require_results(folder)
    rows = failed_rows(loaded, folder, table_names)
    for line in [*summary(rows), *unmeasured(loaded, folder, table_names)]:
        typer.echo(line)
    if not all(row.is_allowed for row in rows):
        raise typer.Exit(1)
    if out is not None:
        write_json(out, {"unsupported": {row.path: row.failure.reason for row in rows}})


def times(
    profile: Profile = MINI,
    results: Results = None,
) -> None:
    """Show how many seconds tables and methods took.

    The seconds are those of the jobs of a finished workflow, as Snakemake measured them. Each job has one thread. A run
    that belongs to several tables counts in each of them.

    \b
    Example:
      qdit times --results results/mini
    """
    from qdit.report.data.times import times_text
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    typer.echo(times_text(loaded, results_folder(loaded, results)), nl=False)


def validate(
    profile: Annotated[list[str], typer.Argument(help="Name or file of a profile, then its overlays.")] = MINI,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of profiles, which editors read.")
    ] = False,
) -> None:
    """Check a profile.

    The command checks keys, names, methods, options, bits and counts. It runs nothing. Overlays change the mini
    profile, as they do after `snakemake --configfile`.

    \b
    Example:
      qdit validate my-overlay.yaml
    """
    from qdit.workflow.profile import all_runs, broken_lines, load_profile
    from qdit.workflow.profile_models import json_schema

    if schema:
        typer.echo(json_schema(), nl=False)
        return
    loaded = load_profile(*profile)
    typer.echo(f"{' + '.join(profile)}: valid; {len(loaded['tables'])} tables, {len(all_runs(loaded))} runs")
    for line in broken_lines(loaded):
        typer.echo(line)


def ls(profile: Profile = MINI) -> None:
    """List methods, settings and runs.

    The runs of each table stand below its name.

    \b
    Example:
      qdit ls
    """
    from qdit.workflow.profile import listing, load_profile

    typer.echo(listing(load_profile(*profile)))


def doctor(
    profile: Profile = MINI,
    tflops: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="Speed of one GPU in 10^12 operations per second. The estimate of the cost uses it."
        ),
    ] = None,
    gpus: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of GPUs of the estimate. Repeat it; default 1, 8, 64, 512.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="SVG file to write: wall time over the number of GPUs.")] = None,
    results: Results = None,
    details: Annotated[
        bool,
        typer.Option("--all", help="List every file with size, source, licence and sha256, not only the problems."),
    ] = False,
    row: Annotated[
        str | None,
        typer.Option(help="Check only what this row and its full-precision partner need, e.g. 'table2 q-dit w4a8'."),
    ] = None,
) -> None:
    """Check that everything that a profile needs exists.

    The command checks files, packages, devices and disk. The first line is the overall result; then each group has a
    line. The exit code is 1 if something is missing or damaged. For profiles that download files, or with --tflops, the
    command also estimates the cost: GPU-hours, wall time, disk and memory. Without --tflops it takes the speed of
    finished jobs, else that of an H100 by its data sheet. The last lines are hours of each table on some cards.

    \b
    Examples:
      qdit doctor
      qdit doctor --profile paper --tflops 100 --gpus 8
      qdit doctor --profile paper --row "table2 q-dit w4a8"
    """
    from qdit.workflow.cost import GPUS, cost_text, speed_of
    from qdit.workflow.cost_figure import draw
    from qdit.workflow.cost_tables import tables_text
    from qdit.workflow.doctor import examine, needs_gpu, surroundings
    from qdit.workflow.doctor_text import doctor_text
    from qdit.workflow.one_row import find_row, plan_lines, profile_of_row
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    table_row = find_row(loaded, row) if row is not None else None
    checked = profile_of_row(loaded, table_row) if table_row else loaded
    for line in plan_lines(loaded, [table_row] if table_row else [], folder):
        typer.echo(line)
    findings = examine(checked, folder)
    words = table_row.words if table_row else None
    typer.echo(doctor_text(checked, findings, details=details, row=words, layers=profile))
    for name, value in surroundings(gpu_needed=needs_gpu(loaded)).items():
        typer.echo(f"{name}: {value}")
    if tflops or figure or "files" in loaded:
        speed = speed_of(loaded, folder, tflops)
        typer.echo(cost_text(checked, speed, gpus or GPUS))
        if "files" in loaded and not table_row:
            typer.echo(tables_text(loaded, folder))
        if figure:
            draw(checked, speed, figure)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
