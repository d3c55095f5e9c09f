"""Commands that report on finished runs: claims, leaderboard, compare."""

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    list[str],
    typer.Option("--profile", "--config", help="Profile: a name (config/NAME.yaml) or a file; again for overlays."),
]
Results = Annotated[Path | None, typer.Option(help="Folder of the profile's results; default results/<profile>.")]


def claims(
    profile: Profile = ["mini"],  # noqa: B006
    results: Results = None,
    out: Annotated[Path | None, typer.Option(help="Page to write, with a CSV beside it; default: none.")] = None,
) -> None:
    """Check what the papers claim.

    Every claim of results/published/claims.yaml on the printed numbers, on the profile's runs, and on those of the
    profile paper, if there are some beside them; missing cells say why. docs/claims.md says how to add one.

    \b
    Examples:
      qdit claims
      qdit claims --results results/mini --out results/mini/claims.html
    """
    from qdit.report.claims.report import load_report, text_of, write_report
    from qdit.report.data.presence import require_results
    from qdit.report.pages.claims_page import claims_page
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results or Path("results", loaded["profile"])
    if results is not None:  # without the option the printed numbers alone are worth a look
        require_results(folder)
    report = load_report(loaded, folder)
    typer.echo(text_of(report), nl=False)
    if out is not None:
        for path in write_report(report, claims_page(report), out):
            typer.echo(path)


def leaderboard(profile: Profile = ["mini"], results: Results = None) -> None:  # noqa: B006
    """Rank every run of a profile.

    Writes leaderboard.csv and leaderboard.html into the folder of results: one row for each run, ranked by FD-FP among
    those of equal setting, form, scope and bits, with 95 % intervals.

    \b
    Example:
      qdit leaderboard --results results/mini
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.leaderboard import build_leaderboard
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results or Path("results", loaded["profile"])
    require_results(folder)
    for path in build_leaderboard(loaded, folder):
        typer.echo(path)


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a run (with metrics.json), or a results folder (with runs/).")],
    b: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    out: Annotated[Path | None, typer.Option(help="CSV to write.")] = None,
) -> None:
    """Compare two runs, or two versions of the suite.

    Differences b − a with 95 % intervals: is the change more than chance? Runs of results folders are matched by name;
    those that changed by more than chance are listed.

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
    profile: Profile = ["mini"],  # noqa: B006
    results: Results = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write; default index.html in the folder of results.")
    ] = None,
) -> None:
    """Write the report of a run: one page.

    Claims, tables, figures, samples, benchmarks, searches, controls and provenance in one file that can be mailed and
    opened without a network. It reads what the run left and computes no result; what is missing says why.

    \b
    Example:
      qdit report --results results/mini
    """
    from qdit.report.data.presence import require_results
    from qdit.report.pages.run_report import NAME, build_index
    from qdit.workflow.profile import load_profile

    loaded = load_profile(*profile)
    folder = results or Path("results", loaded["profile"])
    require_results(folder)
    typer.echo(build_index(loaded, folder, out or folder / NAME))
