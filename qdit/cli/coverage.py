"""The command of the coverage study: how often the 95 % intervals hold the true difference."""

from pathlib import Path
from typing import Annotated

import typer

from qdit.cli.options import use_blas_threads

STUDY, PAGE = Path("results/studies/coverage.json"), Path("docs/coverage-study.md")


def coverage(
    out: Annotated[Path, typer.Option(help="JSON to write.")] = STUDY,
    page: Annotated[Path, typer.Option(help="Page to write.")] = PAGE,
    tables: Annotated[int, typer.Option(help="Simulated tables of each condition.")] = 2000,
    replicates: Annotated[int, typer.Option(help="Replicates of each row, at least 3.")] = 3,
    images: Annotated[int, typer.Option(help="Images of each row.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
) -> None:
    """Study how often the 95 % intervals of differences hold the true difference.

    The study simulates tables whose rows have replicates (other calibration data and random draws, on the same images).
    It varies the variance between runs, from 0 to 100 times the variance that the choice of images gives. It needs no
    results and no model, and takes less than ten minutes of one core.

    \b
    Examples:
      qdit bench coverage
      qdit bench coverage --replicates 5 --tables 500 --out five.json --page five.md
    """
    from qdit.bench.coverage_study import Plan, coverage_study
    from qdit.bench.coverage_study_page import verdict, write_page
    from qdit.core.files import write_json

    use_blas_threads(1)
    study = coverage_study(Plan(tables=tables, images=images, replicates=replicates, seed=seed))
    write_json(out, study)
    write_page(study, page)
    typer.echo(f"{out}: {verdict(study)}")
