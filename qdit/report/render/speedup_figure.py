"""Draw damage against measured speed: one point for each row, with intervals and the Pareto front.

Each point has its name in a column beside the panel, with a line from the point to the name, so names never overlap.
The page shows one of two drawings, for a wide and for a narrow screen.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qdit.core.ranking import ranking_metric
from qdit.report.data.pareto import pareto_front
from qdit.report.data.rows import Figure
from qdit.report.render.allocation_figures import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

TITLE = "Accuracy against measured speed"
INK, GREY, RULE = "#20252b", "#5d6670", "#d9dee3"
"""Not the ink of other drawings, which follows the theme of the page: this drawing has a white ground of its own."""

STAR = "#101418"
"""Not black: matplotlib leaves black out of an SVG, and the page has a colour of its own for it."""

FULL_PRECISION = "full precision"
LINE = 1.32
"""Height of a name, in font sizes."""
CHARACTER = 0.56
"""Width of a character of a name, in font sizes."""


@dataclass(frozen=True)
class Point:
    """A row as a point: speed relative to float32, `value` in the ranking metric with its interval.

    `grouped` says whether groups of inputs have their own ranges (else whole tokens, channels or tensors).
    """

    name: str
    speed: float
    value: float
    low: float | None
    high: float | None
    colour: str
    grouped: bool


@dataclass(frozen=True)
class Panel:
    """The points that were measured on one device; `half` is the speed of bfloat16 there, relative to float32."""

    title: str
    points: tuple[Point, ...]
    half: float

    @property
    def front(self) -> tuple[Point, ...]:
        """The Pareto front from the slowest to the fastest; full precision (speed 1, no damage) is a point too."""
        listed = (full_precision(), *self.points)
        damages = [(point.speed, ranking_metric().damage(point.value)) for point in listed]
        return tuple(listed[n] for n in pareto_front(damages))


def full_precision() -> Point:
    """Return the point of full precision; its value can be infinite."""
    return Point(FULL_PRECISION, 1.0, ranking_metric().perfect, None, None, STAR, True)


@dataclass(frozen=True)
class Layout:
    """Sizes of the drawing: width in inches, letters in points, and the least height of a panel in inches."""

    width: float
    letters: float
    height: float


WIDE, NARROW = Layout(7.6, 9, 3.6), Layout(3.8, 8, 3.4)


def speedup_figure(panels: Sequence[Panel], about: str) -> Figure | None:
    """Return the figure of all panels that have points, for wide and narrow screens; None without a point."""
    shown = [panel for panel in panels if panel.points]
    if not shown:
        return None
    wide, narrow = (_drawn(shown, about, layout) for layout in (WIDE, NARROW))
    return replace(wide, narrow_svg=_renamed(narrow.svg))


def _drawn(panels: Sequence[Panel], about: str, layout: Layout) -> Figure:
    heights = [panel_height(panel, layout) for panel in panels]

    def draw(drawing: "Drawing") -> None:
        engine: Any = drawing.get_layout_engine()
        left, bottom, _, share = engine.get()["rect"]  # a frame around the figure takes the rest
        drawing.set_layout_engine("none")
        whole = drawing.get_figheight()
        top = whole * (bottom + share)
        for panel, height in zip(panels, heights, strict=True):
            _draw_panel(drawing, panel, layout, bottom=(top - height) / whole, left=left)
            top -= height

    return drawn(draw, inches=(layout.width, sum(heights)), title=TITLE, about=about, transparent=False)


def panel_height(panel: Panel, layout: Layout) -> float:
    """Return the height of a panel in inches, with room for all names below each other."""
    names = (len(panel.points) + 2) * LINE * layout.letters / 72
    return max(layout.height, names) + EDGES


TOP, BOTTOM, LEFT = 0.42, 0.5, 0.75
EDGES = TOP + BOTTOM
"""Inches above the axes (the title), below them, and to their left."""


def _draw_panel(drawing: "Drawing", panel: Panel, layout: Layout, *, bottom: float, left: float) -> None:
    """Draw a panel; `bottom` and `left` are the place of its lower corner in shares of the figure."""
    names = [point.name for point in panel.points] + [FULL_PRECISION]
    column = (max(map(len, names)) * CHARACTER * layout.letters + 16) / 72
    width, height = drawing.get_size_inches()
    inches = panel_height(panel, layout) - EDGES
    box = (left + LEFT / width, bottom + BOTTOM / height, (layout.width - LEFT - column) / width, inches / height)
    axes = drawing.add_axes(box)
    _scales(axes, panel, layout)
    axes.set_title(panel.title, loc="left", fontsize=layout.letters, color=INK)
    axes.step(
        [point.speed for point in panel.front],
        [_drawn_value(axes, point.value) for point in panel.front],
        where="pre", color=INK, linewidth=1.1, linestyle="--", zorder=2,
    )  # fmt: skip
    axes.axvline(panel.half, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    axes.text(panel.half, 1.0, " bfloat16", color=GREY, fontsize=layout.letters - 1.2, rotation=90, va="top",
              ha="right", transform=axes.get_xaxis_transform())  # fmt: skip
    for point in panel.points:
        _draw_point(axes, point)
    full = full_precision()
    axes.plot([1.0], [_drawn_value(axes, full.value)], marker="*", markersize=9, color=STAR, clip_on=False, zorder=4)
    _name(axes, (*panel.points, full), layout, inches)


def _drawn_value(axes: "Axes", value: float) -> float:
    """The value, or the end of the axis that is nearest to an infinite value."""
    low, high = axes.get_ylim()
    return min(max(value, low), high)


def _draw_point(axes: "Axes", point: Point) -> None:
    if point.low is not None and point.high is not None:
        axes.plot(
            [point.speed] * 2, [_drawn_value(axes, point.low), point.high], color=point.colour, linewidth=1.1, zorder=3
        )
    face = point.colour if point.grouped else "white"
    axes.plot([point.speed], [_drawn_value(axes, point.value)], marker="o", markersize=6, markerfacecolor=face,
              markeredgecolor=point.colour, markeredgewidth=1.4, linestyle="none", zorder=4)  # fmt: skip


def _scales(axes: "Axes", panel: Panel, layout: Layout) -> None:
    """Speeds on a linear axis, the ranking metric on the axis that suits it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    _scale_values(
        axes, [v for p in panel.points for v in (p.low, p.value, p.high) if v is not None and math.isfinite(v)]
    )
    speeds = [1.0, panel.half, *(point.speed for point in panel.points)]
    room = 0.06 * (max(speeds) - min(speeds) or 1.0)
    axes.set_xlim(min(speeds) - room, max(speeds) + room)
    axes.xaxis.set_major_locator(MaxNLocator(5 if layout is WIDE else 3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}×"))
    axes.tick_params(labelsize=layout.letters - 0.5, colors=INK)
    axes.set_xlabel("times as fast as float32", fontsize=layout.letters, color=INK)
    axes.set_ylabel(f"{ranking_metric().axis_title}: {ranking_metric().direction}", fontsize=layout.letters, color=INK)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(name in ("left", "bottom"))


def _scale_values(axes: "Axes", values: Sequence[float]) -> None:
    """Scale the vertical axis for finite values of the ranking metric.

    Ratios: logarithmic above the smallest decade, and linear from there to 0. Else linear, with room above the values
    for full precision.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    if not ranking_metric().ratios:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        room = 0.08 * (high - low or 1.0)
        axes.set_ylim(low - room, high + 2 * room)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)
    axes.set_yscale("symlog", linthresh=10.0**low, linscale=0.35)
    step = max(math.ceil((high - low) / 5), 1)
    axes.yaxis.set_major_locator(FixedLocator([0.0, *(10.0**decade for decade in range(low, high + 1, step))]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.set_ylim(0.0, 10.0**high)


def _name(axes: "Axes", points: Sequence[Point], layout: Layout, inches: float) -> None:
    """Draw the names in a column, each as near as possible to the height of its point, with a line to it."""
    transform = axes.transData + axes.transAxes.inverted()
    height_of = {
        point: float(transform.transform((point.speed, _drawn_value(axes, point.value)))[1]) for point in points
    }
    order = sorted(points, key=lambda point: (height_of[point], -point.speed))
    heights = [height_of[point] for point in order]
    places = spread(heights, LINE * layout.letters / 72 / inches, 0.0, 1.0)
    for point, place in zip(order, places, strict=True):
        arrow: dict[str, Any] = {
            "arrowstyle": "-",
            "color": "#aab2ba",
            "linewidth": 0.6,
            "shrinkA": 1,
            "shrinkB": 4,
            "relpos": (0, 0.5),
        }
        axes.annotate(
            point.name,
            xy=(point.speed, _drawn_value(axes, point.value)), xycoords="data",
            xytext=(1.05, place), textcoords="axes fraction",
            fontsize=layout.letters, color=INK, va="center", ha="left", arrowprops=arrow, annotation_clip=False,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places in [low, high] near ascending values, in the same order and at least `gap` apart.

    Neighbours that are too near form a cluster around the mean of its values. If there is no room, places are evenly
    spaced.
    """
    count = len(values)
    if count and (count - 1) * gap >= high - low:
        return [low + (high - low) * n / max(count - 1, 1) for n in range(count)]
    clusters: list[list[float]] = []  # (sum of value − own offset, members): its start is their mean
    for value in values:
        clusters.append([value, 1.0])
        while len(clusters) > 1 and _start(clusters[-2], gap, low, high) + clusters[-2][1] * gap > _start(
            clusters[-1], gap, low, high
        ):
            total, members = clusters.pop()
            clusters[-1] = [clusters[-1][0] + total - members * clusters[-1][1] * gap, clusters[-1][1] + members]
    return [_start(cluster, gap, low, high) + n * gap for cluster in clusters for n in range(int(cluster[1]))]


def _start(cluster: Sequence[float], gap: float, low: float, high: float) -> float:
    """Place of the first member of a cluster, inside the limits."""
    total, members = cluster
    return min(max(total / members, low), high - (members - 1) * gap)


def _renamed(svg: str) -> str:
    """The SVG with other ids, since both drawings stand in one page."""
    return re.sub(r'(\bid="|href="#|url\(#)', r"\1narrow-", svg)
