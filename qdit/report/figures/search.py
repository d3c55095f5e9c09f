"""Figures of the tables of allocations, in the same frame as all other figures."""

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
    return Sketch(
        drawing.title,
        f"table {figure.table}",
        drawing.about,
        f"{drawing.title}: {drawing.about}",
        drawing.inches,
        drawing.draw,
    )


def find(figures: tuple[Figure, ...], title: str) -> Figure | None:
    """The table's figure for a title of the plan, or None."""
    wanted = TITLES.get(title)
    return next((figure for figure in figures if wanted in (None, figure.title)), None)
