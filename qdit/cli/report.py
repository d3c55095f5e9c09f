"""Commands that report on finished runs: claims, leaderboard, compare."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import MINI, Profile, Results, named_file, results_folder


def claims(
    profile: Profile = MINI,
    results: Results = None,
    out: Annotated[
        Path | None,
        typer.Option(callback=named_file, help="Page to write, with CSV and Markdown beside it; default: no page."),
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option(
            help="Results of the same profile with another seed, all rows or some; repeat it. Verdicts are compared"
            " with them."
        ),
    ] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Judge the means over the results and all --other results (at least two). The spread between these"
            " runs counts in each interval.",
        ),
    ] = False,
) -> None:
    """Check what the papers claim.

    The command checks each claim of results/published/claims.yaml on the printed numbers and on the runs of the
    profile. If the results of the profile paper exist, it checks their runs too. A cell without a verdict shows the
    reason. docs/claims.md shows how to add a claim.

    A miniature is also judged at the bits where damage begins (W4A4); these verdicts are not counted as the papers'.
    The last lines say how many claims are decided, and how many verdicts stay when a replicate, or a run with another
    seed, takes the place of the rows. qdit run claims_rows --profile mini-damage makes the rows that the claims read;
    this command finds them without the overlay.

    \b
    Examples:
      qdit claims
      qdit claims --results results/mini --out results/mini/claims.html
      qdit claims --results results/mini --other results/seed1 --other results/seed2
      qdit claims --results results/mini --other results/seed1 --other results/seed2 --together
    """
    from qdit.report.claims.report import load_report
    from qdit.report.claims.written import text_of, write_report
    from qdit.report.data.presence import require_results
    from qdit.report.pages.claims_page import claims_markdown, claims_page
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    if results is not None:  # without the option the printed numbers alone are worth a look
        require_results(folder)
    report = load_report(loaded, folder, other or (), together=together)
    typer.echo(text_of(report), nl=False)
    if out is not None:
        for path in write_report(report, claims_page(report), claims_markdown(report), out):
            typer.echo(path)


def leaderboard(profile: Profile = MINI, results: Results = None) -> None:
    """Rank every run of a profile.

    The command writes leaderboard.csv, .md and .html into the results folder. Each run is a row. Runs of equal
    setting, form, scope and bits are ranked by the ranking metric (PSNR-FP), with 95 % intervals.

    \b
    Example:
      qdit leaderboard --results results/mini
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.leaderboard import build_leaderboard
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    require_results(folder)
    for path in build_leaderboard(loaded, folder):
        typer.echo(path)


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run (with metrics.json), or a results folder (with runs/).")],
    b: Annotated[Path, typer.Argument(help="A second folder of the same kind.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
) -> None:
    """Compare two runs, or two versions of the suite.

    The command prints the differences b − a with 95 % intervals. An interval shows whether a difference can be chance.
    Two results folders are compared run by run; the command lists the runs that differ by more than chance.

    \b
    Examples:
      qdit compare results/mini/runs/digits-cfg1.0-s20/natural/rtn/w4a8-common \\
        results/mini/runs/digits-cfg1.0-s20/natural/q-dit/w4a8-common
      qdit compare ../before/results/mini results/mini --out changes.csv
    """
    from qdit.core.files import write_text
    from qdit.report.pages.compare import compare_text

    text, frame = compare_text(a, b)
    typer.echo(text, nl=False)
    if out is not None:
        write_text(out, frame.to_csv(index=False, lineterminator="\n"))
        typer.echo(out)


def report(
    profile: Profile = MINI,
    results: Results = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write; default index.html in the folder of results.")
    ] = None,
) -> None:
    """Write the report of a run, one page.

    The page has claims, tables, figures, samples, benchmarks, searches, controls and provenance. It opens without a
    network. The command reads result files and computes no results. A part without data shows the reason.

    \b
    Example:
      qdit report --results results/mini
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.run_report import NAME, build_index
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results_folder(loaded, results)
    require_results(folder)
    typer.echo(build_index(loaded, folder, out or folder / NAME))


def docs_mini(
    profile: Profile = MINI,
    results: Results = None,
    docs: Annotated[Path, typer.Option(help="Folder to fill.")] = Path("docs/mini"),
    readme: Annotated[Path, typer.Option(help="README whose table of numbers is written.")] = Path("README.md"),
) -> None:
    """Copy the pages of a finished run to docs/mini.

    The command copies the pages of the default tables, the claims and the leaderboard. It adds times, machine and
    commit, and writes the README's table of numbers. It also copies an opt-in table if the run has its page
    (`snakemake --cores all all differences`). It removes all other files of docs/mini; a folder that it did not fill is
    an error. The checkout must have no changes, and the workflow must be finished.

    \b
    Example:
      qdit docs-mini
    """
    from qdit.report.pages.docs_mini import fill, kept_tables, require_clean, require_finished
    from qdit.workflow.profile import default_tables, load_profile
    from qdit.workflow.run import executable, snakemake_command

    loaded = load_profile(*profile)
    commit = require_clean(Path.cwd(), (f"{docs}/", str(readme)))
    folder = results_folder(loaded, results)
    targets = ["all", *(name for name in kept_tables(loaded, folder) if name not in default_tables(loaded))]
    require_finished(executable(snakemake_command(targets, profile, cores="1", folder=Path.cwd())), Path.cwd())
    for path in fill(loaded, folder, docs, readme, commit=commit):
        typer.echo(path)
