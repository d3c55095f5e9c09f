"""Draw allocations: group sizes by layer and role, fitness on fresh noise, and the matrix of transfer.

matplotlib draws each figure once, when a page shows it: as SVG (in the colours of the page) and as PNG. Equal data give
equal bytes.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from qdit.core.number_text import significant
from qdit.report.data.allocations import SearchedAllocation, by_role
from qdit.report.data.rows import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

INK = "#1b1f24"
"""Colour of lines and letters; in the SVG it becomes the page's text colour."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "qdit",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.titlesize": 9,
    "legend.frameon": False,
}

COLOURS = ("#1f6feb", "#d1690e", "#1a7f37", "#8250df", "#b42318")
"""Colour of each search in a panel."""

MARKERS = "osD^vP"
"""Marker of each search. The numbers of colours and markers have no common factor: 30 searches look different."""

HEAT, FRESH = "Allocations found", "Fitness on the search’s noise and on fresh noise"
"""Titles."""


def drawn(
    draw: "Callable[[Drawing], None]",
    *,
    inches: tuple[float, float],
    title: str,
    about: str,
    transparent: bool = True,
) -> Figure:
    """Return a figure that is drawn as SVG and as PNG when a page needs it.

    A transparent SVG shows the background of the page.
    """

    def encode() -> tuple[str, bytes]:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        with pyplot.rc_context(STYLE):
            drawing = pyplot.figure(figsize=inches, layout="constrained")
            draw(drawing)
            svg, png = io.StringIO(), io.BytesIO()
            drawing.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=transparent)
            drawing.savefig(png, format="png", dpi=160, metadata={"Software": None}, facecolor="white")
            pyplot.close(drawing)
        return inline(svg.getvalue(), f"{title}. {about}"), png.getvalue()

    return Figure(title, about, inches, draw, encode)


def inline(svg: str, description: str) -> str:
    """Turn an SVG file into an element of an HTML page: without prologue, in the text colour of the page.

    `description` is for readers who do not see the drawing.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)
    element = re.sub(r' clip-path="[^"]*"', "", element)
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element).replace("xlink:href", "href")
    element = element.replace(INK, "var(--ink)")
    return element.replace("<svg", f'<svg role="img" aria-label={quoteattr(description)}', 1)


def heat_maps(panels: Sequence[tuple[str, SearchedAllocation]], sizes: Sequence[int]) -> Figure | None:
    """Draw the group sizes as heat maps: a panel for each allocation, a row for each role, a column for each block."""
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)

    def draw(drawing: "Drawing") -> None:
        for number, (title, allocation) in enumerate(panels, start=1):
            axes = drawing.add_subplot(rows, columns, number)
            roles = by_role(allocation.groups)
            cells = [[None if size is None else math.log2(size) for size in line] for line in roles.values()]
            numbers = [[math.nan if cell is None else cell for cell in line] for line in cells]
            limits = (math.log2(min(sizes)), math.log2(max(sizes)))
            labels = [["" if size is None else str(size) for size in line] for line in roles.values()]
            heat(axes, numbers, labels, limits)
            axes.set_yticks(range(len(roles)), list(roles))
            axes.set_xticks(range(len(numbers[0])), [str(block) for block in range(len(numbers[0]))])
            axes.set(title=title, xlabel="block")

    about = "Group size of each layer; columns are blocks, rows are roles. Dark cells: small groups, exact but costly."
    return drawn(draw, inches=(10.5, 1.9 * rows + 0.2), title=HEAT, about=about)


def heat(axes: "Axes", values: Any, labels: Sequence[Sequence[str]], limits: tuple[float, float]) -> None:
    """Draw coloured cells with a text in each cell; the text in dark cells is light."""
    low, high = limits if limits[1] > limits[0] else (limits[0] - 1, limits[1] + 1)
    cells(axes, values, "cividis", (low, high))
    for row, line in enumerate(labels):
        for column, text in enumerate(line):
            share = (values[row][column] - low) / (high - low)
            axes.text(
                column, row, text, ha="center", va="center", fontsize=8, color="#ffffff" if share < 0.55 else "#10151a"
            )


def cells(axes: "Axes", values: Any, colours: str, limits: tuple[float, float]) -> None:
    """Draw coloured cells centred at whole numbers, with the first row at the top; a NaN has no colour."""
    edges = [[number - 0.5 for number in range(count + 1)] for count in (len(values[0]), len(values))]
    axes.pcolormesh(*edges, values, cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.invert_yaxis()
    axes.tick_params(length=0)


def fresh_noise(blocks: Sequence[tuple[str, Sequence[tuple[str, SearchedAllocation]]]], metric: str) -> Figure | None:
    """Draw the fitness on the search's noise against the fitness on new noise: one panel for each block."""
    shown = [
        (title, [(name, allocation) for name, allocation in panel if allocation.remeasured]) for title, panel in blocks
    ]
    shown = [(title, panel) for title, panel in shown if panel]
    if not shown:
        return None

    def draw(drawing: "Drawing") -> None:
        for number, (title, panel) in enumerate(shown, start=1):
            axes = drawing.add_subplot(1, len(shown), number)
            values: list[float] = []
            for number_of_search, (name, allocation) in enumerate(panel):
                points = [genome for genome in allocation.remeasured if genome.finite]
                style = look_of_search(number_of_search)
                searched = [genome for genome in points if not genome.reference]
                axes.scatter([p.fitness for p in searched], [p.fresh for p in searched], label=name, **style)
                values += [value for p in points for value in (p.fitness, p.fresh)]
            reference = [genome for _, allocation in panel for genome in allocation.remeasured if genome.reference]
            if reference:
                star = reference[0]
                axes.scatter([star.fitness], [star.fresh], color=INK, marker="*", s=70, label="uniform reference")
            if values:
                ends = (0.95 * min(values), 1.05 * max(values))
                axes.plot(ends, ends, color=INK, alpha=0.3, linewidth=1, zorder=0)
            axes.set(title=title, xlabel=f"{metric} on the search’s noise", ylabel=f"{metric} on fresh noise")
            axes.locator_params(nbins=5)
            axes.legend(fontsize=8)

    about = (
        "The best genomes of each search and the uniform reference, measured again on fresh noise."
        " All values depend on the noise: a winner generalizes if it is below the reference on fresh noise, too."
    )
    return drawn(draw, inches=(4.6 * len(shown), 3.6), title=FRESH, about=about)


def look_of_search(number: int) -> dict[str, Any]:
    """Return the colour and the marker of a search, by its place in the panel, as keyword arguments of matplotlib."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def matrix(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], *, title: str, about: str
) -> Figure | None:
    """Draw a matrix of ratios as a heat map with logarithmic colours, 1 in the middle. A gap is blank."""
    known = [value for line in values for value in line if value]
    if not known:
        return None
    furthest = max(max(abs(math.log(value)) for value in known), 0.05)

    def draw(drawing: "Drawing") -> None:
        axes = drawing.add_subplot()
        numbers = [[math.log(value) if value else math.nan for value in line] for line in values]
        cells(axes, numbers, "RdBu_r", (-1.6 * furthest, 1.6 * furthest))
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                text = significant(value) if value else "–"
                axes.text(column, row, text, ha="center", va="center", color="#10151a" if value else INK)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_xticks(range(len(columns)), list(columns))

    return drawn(draw, inches=(1.7 * len(columns) + 2.6, 0.4 * len(rows) + 0.9), title=title, about=about)


def kept(figures: Iterable[Figure | None]) -> tuple[Figure, ...]:
    """Return the figures that are not None."""
    return tuple(figure for figure in figures if figure is not None)
