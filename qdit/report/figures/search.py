"""The figures that tables about allocations have, in the frame of the others."""

from qdit.report.data.rows import Figure
from qdit.report.figures.plan import Planned
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import Sketch
from qdit.report.render.allocation_figures import FRESH, HEAT

TITLES = {"Allocations found": HEAT, "Fitness on fresh noise": FRESH}
"""Title of the plan → that of the table's figure; the matrix of transfer is the only one of its table."""


def search(source: Source, figure: Planned) -> Sketch:
    """A table's own figure; `Missing` where the allocations or runs that it shows are."""
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
    """The table's figure that the plan means."""
    wanted = TITLES.get(title)
    return next((figure for figure in figures if wanted in (None, figure.title)), None)
