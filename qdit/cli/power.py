"""The command of the power study: how many images each metric needs to separate methods."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import use_blas_threads

STUDY, PAGE = Path("results/studies/power.json"), Path("docs/power-study.md")
FIGURE = Path("docs/images/power-study.svg")


def power(
    results: Annotated[Path, typer.Option(help="Results of a run, with its samples.")] = Path("results/mini"),
    out: Annotated[Path, typer.Option(help="JSON to write.")] = STUDY,
    page: Annotated[Path, typer.Option(help="Page to write.")] = PAGE,
    figure: Annotated[Path, typer.Option(help="Figure to write, in the folder images beside the page.")] = FIGURE,
    setting: Annotated[list[str] | None, typer.Option(help="Only rows of this setting; repeat it for more.")] = None,
) -> None:
    """Study how many images each metric needs to separate methods.

    The study reads the samples and features that a run has written, and takes the first 8, 16, 32, … images of each
    row. For each metric it writes the share of method pairs whose difference is more than
    chance, and which metric should rank the rows.

    \b
    Example:
      qdit bench power --results results/mini
    """
    from qdit.bench.power_study import power_study
    from qdit.bench.power_study_page import choice, write_page
    from qdit.core.files import write_json

    use_blas_threads(1)
    study = power_study(results, settings=setting or ())
    write_json(out, study)
    write_page(study, page, figure)
    typer.echo(f"{out}: {choice(study)}")
