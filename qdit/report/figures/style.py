"""The style of all figures: colours that colour-blind readers can tell apart, a marker and line style per method.

Each figure also shows the face, the line that says which data its numbers are about. A figure is first a `Sketch`
(texts and a function that draws), then a matplotlib figure, then the bytes of two files. Equal data give equal bytes.
Nothing in this module depends on the content of a figure.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from qdit.report.render.allocation_figures import STYLE as TABLE_STYLE
from qdit.workflow.method_index import method_sources

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73"),
    *("#0072B2", "#D55E00", "#CC79A7"),
)
"""The palette of Okabe and Ito without yellow, which is hard to see on white."""

GREY, RULE = "#5d6670", "#d9dee3"
MAP = "cividis"
"""Colour map of heat maps: dark is low; it is safe for most kinds of colour blindness and in grey."""

STYLE: dict[Any, Any] = {
    **TABLE_STYLE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "image.interpolation": "none",
}

DPI = 150
TITLE_SIZE, SUBTITLE_SIZE, FACE_SIZE = 11, 8.5, 8
MARGIN = 0.1
"""Margin of a figure, in inches."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one method."""

    colour: str
    marker: str
    line: str = "-"
    emphasized: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib's plot for this look."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}


FREE_COLOURS, FREE_MARKERS, FREE_LINES = (BLACK, ORANGE, BLUE, GREEN), "dXp8H", ("-", "--", ":", "-.")
"""Colours, markers and lines for labels that name no method, and for methods whose class gives no look.

The numbers of colours and of markers have no common factor, so 20 labels differ in colour or marker.
"""


@cache
def method_looks() -> Mapping[str, Look]:
    """Return method → look, for the methods whose class gives a colour and a marker."""
    return {
        name: Look(facts.color, facts.marker, facts.line, emphasized=facts.emphasized)
        for name, facts in method_sources().items()
        if facts.color is not None and facts.marker is not None
    }


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return label → look (colour, marker, line).

    A label that names a method gets the look of this method's Python class. The others get free looks in turn.
    """
    known = method_looks()
    unknown = [label for label in labels if label not in known]
    return {label: known[label] if label in known else free_look(unknown.index(label)) for label in labels}


def free_look(number: int) -> Look:
    """Return the look of label `number` of those that have no look of their own; the first 80 looks all differ."""
    line = number // (len(FREE_COLOURS) * len(FREE_MARKERS))
    return Look(
        FREE_COLOURS[number % len(FREE_COLOURS)],
        FREE_MARKERS[number % len(FREE_MARKERS)],
        FREE_LINES[line % len(FREE_LINES)],
    )


@dataclass(frozen=True)
class Sketch:
    """A figure before it is drawn: texts, the size of the drawing in inches, and the function that draws it.

    `inches` is without title and face. `missing` names missing data; then the picture consists of this sentence.
    """

    title: str
    subtitle: str
    caption: str
    alt: str
    inches: tuple[float, float]
    draw: "Callable[[Drawing], None]"
    missing: str | None = None


def compose(sketch: Sketch, face: str) -> "Drawing":
    """Draw a whole figure: title and subtitle above, the drawing, and the face (which data it is about) below."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = sketch.inches
    title = wrapped(sketch.title, width, TITLE_SIZE, bold=True)
    subtitle = wrapped(sketch.subtitle, width, SUBTITLE_SIZE)
    head = MARGIN + lines_height(title, TITLE_SIZE) + lines_height(subtitle, SUBTITLE_SIZE) + 0.05
    foot = lines_height(face, FACE_SIZE) + 2 * MARGIN
    total = head + height + foot
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(width, total), facecolor="white")
        FigureCanvasAgg(drawing)
        drawing.set_layout_engine(
            "constrained", rect=(0, foot / total, 1, height / total), w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.03
        )
        left, top = MARGIN / width, 1 - MARGIN / total
        drawing.text(left, top, title, size=TITLE_SIZE, weight="bold", va="top")
        top -= lines_height(title, TITLE_SIZE) / total
        drawing.text(left, top, subtitle, size=SUBTITLE_SIZE, color=GREY, va="top")
        box = {"facecolor": "#fff4d6", "edgecolor": "none", "pad": 2.5}
        drawing.text(left + 0.03 / width, MARGIN / total, face, size=FACE_SIZE, color="#5c4300", va="bottom", bbox=box)
        sketch.draw(drawing)
    return drawing


def wrapped(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Break a text into lines that are at most `width` inches wide."""
    character = size / 72 * (0.66 if bold else 0.57)
    return "\n".join(textwrap.wrap(text, max(int((width - 2 * MARGIN) / character), 10)))


def lines_height(text: str, size: float) -> float:
    """Return the height of a text with its line breaks, in inches."""
    return (text.count("\n") + 1 if text else 0) * size / 72 * 1.35


def encode(drawing: "Drawing") -> tuple[str, bytes]:
    """Return a drawing as (SVG text, PNG bytes); equal drawings give equal bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    svg, png = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        FigureCanvasSVG(drawing).print_svg(svg, metadata={"Date": None, "Creator": None})
        drawing.set_dpi(DPI)
        FigureCanvasAgg(drawing).print_png(png, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return svg.getvalue(), png.getvalue()


def missing_sketch(title: str, subtitle: str, why: str) -> Sketch:
    """Return a sketch whose picture is the reason why the figure is missing."""
    text = wrapped(f"Not drawn: {why}", 7.5, 10)

    def draw(drawing: "Drawing") -> None:
        axes = drawing.add_subplot()
        axes.set_axis_off()
        axes.text(0.5, 0.5, text, ha="center", va="center", size=10, color=GREY, transform=axes.transAxes)

    return Sketch(title, subtitle, f"Not drawn: {why}.", f"Empty: {why}.", (7.5, 1.2), draw, why)


def time_axis(axes: "Axes", timesteps: Sequence[int], *, label: bool = True) -> None:
    """Make the horizontal axis of a trajectory: the steps 0 to S − 1 from left to right.

    Some steps are labelled with their timestep.
    """
    count = len(timesteps)
    steps = sorted({round(share * (count - 1) / 4) for share in range(5)})
    axes.set_xticks(steps, [str(timesteps[step]) for step in steps])
    axes.set_xlim(-0.8, count - 0.2)
    if label:
        axes.set_xlabel("timestep t (from noise to image)")


def log_axis(axes: "Axes", values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic, around the positive finite values, with plain numbers at its decades."""
    import math

    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    known = [value for value in values if math.isfinite(value) and value > 0]
    axes.set_yscale("log")
    if not known:
        return
    low, high = math.floor(math.log10(min(known)) - 0.05), math.ceil(math.log10(max(known)) + 0.05)
    step = max(math.ceil((high - low) / 6), 1)
    axes.yaxis.set_major_locator(FixedLocator([10.0**decade for decade in range(low, high + 1, step)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.set_ylim(10.0 ** (math.log10(min(known)) - 0.15), 10.0 ** (math.log10(max(known)) + 0.15))
    below, above = axes.get_ylim()
    if sum(below <= 10.0**decade <= above for decade in range(low, high + 1, step)) < 2:
        axes.yaxis.set_major_locator(FixedLocator(between(below, above)))
    axes.grid(axis="y")


def between(low: float, high: float) -> list[float]:
    """Return round numbers between two limits, for an axis of less than two decades; at least three if possible."""
    import math

    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for digits in (
        (1.0, 2.0, 5.0),
        tuple(float(digit) for digit in range(1, 10)),
        tuple(n / 10 for n in range(10, 100)),
    ):
        candidates = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [value for value in candidates if low <= value <= high]
        if len(inside) >= 3:
            break
    return inside[:: max(len(inside) // 5, 1)]


def plain(value: float, _place: object = None) -> str:
    """Write a number for an axis: 0.01, 1, 1,000; with an exponent only if there would be too many zeros."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,g}" if abs(value) >= 1 else f"{value:.6f}".rstrip("0").rstrip(".")
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def legend(drawing: "Drawing", named: Mapping[str, Look], *, columns: int = 8) -> None:
    """Draw the legend below all panels: each method with its line and marker."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **look.style) for name, look in named.items()]
    legend_below(drawing, handles, columns=columns)


def legend_below(drawing: "Drawing", handles: Sequence[Any], *, columns: int) -> None:
    """Draw a legend in a separate band between the panels and the face."""
    columns = min(columns, len(handles))
    height = (-(-len(handles) // columns) * 0.19 + 0.12) / drawing.get_figheight()
    engine: Any = drawing.get_layout_engine()
    left, bottom, width, inner = engine.get()["rect"]
    engine.set(rect=(left, bottom + height, width, inner - height))
    below = drawing.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, bottom), ncols=columns, handlelength=2.6
    )
    below.set_in_layout(False)
