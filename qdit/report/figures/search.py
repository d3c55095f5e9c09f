"""Draw figures that a table already has (of allocations, of speed), in the same frame as all other figures."""

from qdit.report.data.rows import Figure
from qdit.report.figures.plan import Planned
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import Sketch
from qdit.report.render.allocation_figures import FRESH, HEAT

TITLES = {"Allocations found": HEAT, "Fitness on fresh noise": FRESH}
"""Title in the plan → title in the table; a table of transfer has one figure, so it needs no title."""


def search(source: Source, figure: Planned) -> Sketch:
    """Return the sketch of a table's figure about allocations. Raises `Missing` without allocations or runs."""
    assert figure.table is not None
    table = source.table(figure.table)
    drawing = find(table.figures, figure.title)
    if drawing is None:
        raise Missing(f"the allocations or runs of {figure.table} are missing; `snakemake --cores all {figure.table}`")
    return framed(drawing, table.title)


def speed(source: Source, figure: Planned) -> Sketch:
    """Return the sketch of the figure above a table of methods. Raises `Missing` without runs or times of a block."""
    assert figure.table is not None
    table = source.table(figure.table)
    drawing = table.cover
    if drawing is None:
        raise Missing(
            f"the runs of {figure.table} or the times of a block are missing; `snakemake --cores all {figure.table}`"
        )
    return framed(drawing, table.title)


def framed(drawing: Figure, title_of_table: str) -> Sketch:
    """Turn a figure of a table into a sketch, which gets the frame of all figures."""
    return Sketch(
        drawing.title,
        title_of_table,
        drawing.about,
        f"{drawing.title}: {drawing.about}",
        drawing.inches,
        drawing.draw,
    )


def find(figures: tuple[Figure, ...], title: str) -> Figure | None:
    """Return the figure of a table with this title, or None."""
    wanted = TITLES.get(title)
    return next((figure for figure in figures if wanted in (None, figure.title)), None)
