"""Figures that a table holds (of allocations, of speed), in the same frame as all other figures."""

from qdit.report.data.rows import Figure
from qdit.report.figures.plan import Planned
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import Sketch
from qdit.report.render.allocation_figures import FRESH, HEAT

TITLES = {"Allocations found": HEAT, "Fitness on fresh noise": FRESH}
"""Title in the plan → title in the table; a table of transfer has one figure, so it needs no title."""


def search(source: Source, figure: Planned) -> Sketch:
    """Draw a figure that a table holds. Raises `Missing` if its allocations or runs are missing."""
    assert figure.table is not None
    drawing = find(source.table(figure.table).figures, figure.title)
    if drawing is None:
        raise Missing(f"the allocations or runs of {figure.table} are missing; `snakemake --cores all {figure.table}`")
    return framed(drawing, figure.table)


def speed(source: Source, figure: Planned) -> Sketch:
    """Draw the figure above a table of methods. Raises `Missing` if its runs or the times of a block are missing."""
    assert figure.table is not None
    drawing = source.table(figure.table).cover
    if drawing is None:
        raise Missing(
            f"the runs of {figure.table} or the times of a block are missing; `snakemake --cores all {figure.table}`"
        )
    return framed(drawing, figure.table)


def framed(drawing: Figure, table: str) -> Sketch:
    """The sketch of a table's figure."""
    return Sketch(
        drawing.title,
        f"table {table}",
        drawing.about,
        f"{drawing.title}: {drawing.about}",
        drawing.inches,
        drawing.draw,
    )


def find(figures: tuple[Figure, ...], title: str) -> Figure | None:
    """The table's figure for a title of the plan, or None."""
    wanted = TITLES.get(title)
    return next((figure for figure in figures if wanted in (None, figure.title)), None)
