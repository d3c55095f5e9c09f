"""The commands that read a profile: table, check-rows, times, validate, ls, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import Profile

MINI = ["mini"]
"""The profile of a command that names none; no command changes the list."""


def table(
    name: Annotated[str, typer.Argument(help="Table of the profile, e.g. table2.")],
    profile: Profile = MINI,
    results: Annotated[Path | None, typer.Option(help="Folder of the profile's results.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output without suffix; default RESULTS/tables/NAME.")] = None,
) -> None:
    """Render a table in four formats.

    CSV, Markdown, LaTeX and HTML, beside the published values; missing runs say why.

    \b
    Example:
      qdit table table2
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.build import build_table
    from qdit.workflow.profile import load_profile
    from qdit.workflow.run import check_targets

    loaded = load_profile(*profile)
    check_targets(loaded, [name])
    folder = results or Path("results", loaded["profile"])
    require_results(folder)
    for path in build_table(loaded, name, folder, out or folder / "tables" / name):
        typer.echo(path)


def check_rows(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables of the profile; default: all default ones.")
    ] = None,
    profile: Profile = MINI,
    results: Annotated[Path | None, typer.Option(help="Folder of the profile's results.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write if no row failed: those that are unsupported.")
    ] = None,
) -> None:
    """List the rows whose method failed.

    With the reason and the log of each; exit code 1 if one failed for another reason than that its method says it
    cannot. The workflow ends with it.

    \b
    Example:
      qdit check-rows table2
    """
    from qdit.core.files import write_json
    from qdit.workflow.profile import default_tables, load_profile
    from qdit.workflow.rows import failed_rows, summary

    loaded = load_profile(*profile)
    rows = failed_rows(loaded, results or Path("results", loaded["profile"]), tables or default_tables(loaded))
    for line in summary(rows):
        typer.echo(line)
    if not all(row.is_allowed for row in rows):
        raise typer.Exit(1)
    if out is not None:
        write_json(out, {"unsupported": {row.path: row.failure.reason for row in rows}})


def times(
    profile: Profile = MINI,
    results: Annotated[Path, typer.Option(help="Folder results/<profile> of a finished run.")] = Path("results/mini"),
) -> None:
    """Show how long tables and methods took.

    Seconds of the jobs of a finished workflow, as Snakemake measured them (one thread each); a run that several
    tables show is counted in each.

    \b
    Example:
      qdit times --results results/mini
    """
    from qdit.report.data.times import times_text
    from qdit.workflow.profile import load_profile

    typer.echo(times_text(load_profile(*profile), results), nl=False)


def validate(
    profile: Annotated[list[str], typer.Argument(help="Profile, by name or file, then its overlays.")] = MINI,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of profiles, for editors.")] = False,
) -> None:
    """Check a profile.

    Unknown keys, names, methods and options, bits, counts; nothing is run. Overlays lie over the mini profile, as
    `snakemake --configfile` lays them.

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

    \b
    Example:
      qdit ls
    """
    from qdit.workflow.profile import listing, load_profile

    typer.echo(listing(load_profile(*profile)))


def doctor(
    profile: Profile = MINI,
    tflops: Annotated[
        float | None, typer.Option(min=1e-6, help="Speed of one GPU, in 10^12 operations a second, for the estimate.")
    ] = None,
    gpus: Annotated[list[int] | None, typer.Option(min=1, help="GPUs to estimate for; default 1, 8, 64, 512.")] = None,
    figure: Annotated[Path | None, typer.Option(help="SVG to write: wall time on more and more GPUs.")] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of the profile's results.")] = None,
    details: Annotated[
        bool, typer.Option("--all", help="Every file with size, source, licence and sha256, also those that are fine.")
    ] = False,
) -> None:
    """Check that what a profile needs is there.

    Files, packages, devices, disk: the first line says whether all is there, then a line for each group of them; exit
    code 1 if something is missing or damaged. For a profile of files from elsewhere, or with --tflops, also what it
    costs: GPU-hours, wall time, disk, memory. The speed is given, or measured by the finished jobs of its results.

    \b
    Examples:
      qdit doctor
      qdit doctor --profile paper --tflops 100 --gpus 8
    """
    from qdit.workflow.cost import GPUS, cost_text, speed_of
    from qdit.workflow.cost_figure import draw
    from qdit.workflow.doctor import examine, needs_gpu, surroundings
    from qdit.workflow.doctor_text import doctor_text
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results or Path("results", loaded["profile"])
    findings = examine(loaded, folder)
    typer.echo(doctor_text(loaded, findings, details=details))
    for name, value in surroundings(gpu_needed=needs_gpu(loaded)).items():
        typer.echo(f"{name}: {value}")
    if tflops or figure or "files" in loaded:
        speed = speed_of(loaded, folder, tflops)
        typer.echo(cost_text(loaded, speed, gpus or GPUS))
        if figure:
            draw(loaded, speed, figure)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
