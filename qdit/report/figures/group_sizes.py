"""Draw Q-DiT's Table 1 as curves: quality against one group size for all layers.

Each step to a smaller group size that makes the quality worse is marked.
"""

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qdit.core.metrics import METRICS, Metric, shown_on
from qdit.core.number_text import significant
from qdit.core.ranking import ranking_metric
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Block, is_measured
from qdit.report.figures.plan import Planned, subject_of_block
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import BLUE, GREY, VERMILLION, Sketch, legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Rise:
    """A step to a smaller group size that makes the value worse.

    `index` is the position of the smaller size in the curve, `by` the size of the change. `is_chance` says whether
    the change can be chance; None without an interval.
    """

    index: int
    by: float
    is_chance: bool | None


@dataclass(frozen=True)
class Curve:
    """One curve: its name, and for each group size (largest first) the value and its 95 % interval."""

    name: str
    metric: str
    printed: bool
    sizes: tuple[str, ...]
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    rises: tuple[Rise, ...]


def group_sizes(source: Source, figure: Planned) -> Sketch:
    """Draw the curves of a table of kind `table1`: the printed FID, our FID and the ranking metric."""
    assert figure.table is not None
    blocks = source.table(figure.table).blocks
    settings = [subject_of_block(source.profile, block) for block in source.profile["tables"][figure.table]["blocks"]]
    names = [subject.model for subject in settings]
    groups = [(METRICS["fid"], "FID, as printed", [printed_curve(block) for block in blocks])]
    groups += [
        (
            metric,
            f"{metric.title}, ours",
            [our_curve(block, name, metric.name) for block, name in zip(blocks, names, strict=True)],
        )
        for metric in map(METRICS.__getitem__, shown_on("figures"))
    ]
    shown = [
        (metric, title, [curve for curve in curves if any(v is not None for v in curve.values)])
        for metric, title, curves in groups
    ]
    shown = [group for group in shown if group[2]]
    if not any(not curve.printed for _, _, curves in shown for curve in curves):
        raise Missing(f"no run of {figure.table} has metrics yet")

    def draw(drawing: "Drawing") -> None:
        for number, (metric, title, curves) in enumerate(shown):
            axes = drawing.add_subplot(1, len(shown), number + 1)
            for number_of_curve, curve in enumerate(curves):
                draw_curve(axes, curve, second=number_of_curve % 2 == 1)
            sizes = max((curve.sizes for curve in curves), key=len)
            stands_for = " (the paper’s)" if any("(" in size for size in sizes) else ""
            axes.set(title=title, xlabel=f"group size{stands_for}", ylabel=f"{metric.axis_title}: {metric.direction}")
            axes.set_xticks(range(len(sizes)), sizes)
            axes.set_xlim(-0.4, len(sizes) - 0.6)
            low, high = axes.get_ylim()
            low = 0.0 if metric.lower_is_better else low
            room = 0.08 + 0.12 * sum(named(curve).count("\n") + 1 for curve in curves)
            axes.set_ylim(low, high + room * (high - low))
            axes.grid(axis="y")
            axes.legend(loc="upper right")
        keys(drawing)

    rises = [curve for _, _, curves in shown for curve in curves if curve.rises]
    finding = " is not monotone" if rises else ""
    bits = sorted({bits for block in source.profile["tables"][figure.table]["blocks"] for bits in block["bits"]})
    caption = (
        "One group size for all layers, smaller ones to the right. Triangles mark steps to a smaller group that make it"
        " worse: filled where the paired 95 % interval of the difference excludes 0, hollow where it does not or is not"
        f" known, as for printed numbers. {verdicts(shown)}"
    )
    return Sketch(
        f"Quality against group size{finding} (Q-DiT, Table 1)",
        " · ".join(
            [*dict.fromkeys(source.describe(subject, form=False) for subject in settings), *map(str.upper, bits)]
        ),
        caption,
        f"Lines of FID and {ranking_metric().title} over group sizes; steps that make it worse are marked.",
        (9.2, 3.3),
        draw,
    )


def quantized(block: Block) -> list[Row]:
    """Return the rows that have a group size, the largest size first."""
    return sorted((row for row in block.rows if row["group_size"] is not None), key=lambda row: -row["group_size"])


def label_of(row: Row) -> str:
    """Write a row's group size, and on a second line the corresponding group size of the paper."""
    paper = row["paper_group_size"]
    return str(row["group_size"]) if paper in (None, row["group_size"]) else f"{row['group_size']}\n({paper})"


def printed_curve(block: Block) -> Curve:
    """Return the curve of the FID that the paper prints for the rows of a block."""
    rows = [row for row in quantized(block) if row.get("published_fid") is not None]
    values = tuple(float(row["published_fid"]) for row in rows)
    rises = tuple(Rise(n, values[n] - values[n - 1], None) for n in range(1, len(values)) if values[n] > values[n - 1])
    beside = block.about.partition("the paper's ")[2]
    sizes = tuple(str(row["paper_group_size"] or row["group_size"]) for row in rows)
    return Curve(f"DiT-XL/2, {beside}" if beside else "printed", "fid", True, sizes, values, (None,) * len(rows), rises)


def our_curve(block: Block, name: str, metric: str) -> Curve:
    """Return the curve of our values of a metric. A row without a value leaves a gap; no step over a gap is marked."""
    rows = quantized(block)
    values = tuple(float(row[metric]) if is_measured(row) and row[metric] is not None else None for row in rows)
    limits = tuple((row.get(f"{metric}_low"), row.get(f"{metric}_high")) for row in rows)
    known = tuple((low, high) if low is not None and high is not None else None for low, high in limits)
    rises = []
    for n in range(1, len(rows)):
        gap = difference(rows[n], rows[n - 1], metric)
        if gap is not None and METRICS[metric].damage(gap.value) > 0:
            rises.append(Rise(n, abs(gap.value), gap.is_chance))
    return Curve(name, metric, False, tuple(label_of(row) for row in rows), values, known, tuple(rises))


def draw_curve(axes: "Axes", curve: Curve, *, second: bool) -> None:
    """Draw a curve with its intervals, and a triangle above each step that makes the value worse."""
    colour, marker, line = (GREY, "s", "--") if second else (BLUE, "o", "-")
    shift = 0.06 if second else -0.06
    values = [float("nan") if value is None else value for value in curve.values]
    xs = [n + shift for n in range(len(values))]
    for x, limits in zip(xs, curve.intervals, strict=True):
        if limits is not None:
            axes.plot([x, x], [max(limits[0], 0.0), limits[1]], color=colour, linewidth=0.8)
    axes.plot(xs, values, color=colour, marker=marker, linestyle=line, label=named(curve))
    for rise in curve.rises:
        start, end = rise.index - 1, rise.index
        axes.plot(xs[start : end + 1], values[start : end + 1], color=VERMILLION, linewidth=2.2, zorder=3)
        filled = rise.is_chance is False
        face = VERMILLION if filled else "white"
        axes.plot(xs[end], values[end], marker="^", markersize=7.5, color=VERMILLION, markerfacecolor=face, zorder=4)


def named(curve: Curve) -> str:
    """Break the name of a curve into lines that fit into the legend."""
    return textwrap.fill(curve.name, 24)


def keys(drawing: "Drawing") -> None:
    """Draw the legend of the triangles."""
    from matplotlib.lines import Line2D

    words = {
        VERMILLION: "smaller group is worse, more than chance",
        "white": "smaller group is worse, may be chance or no interval known",
    }
    handles = [
        Line2D([], [], color=VERMILLION, linewidth=2.2, marker="^", markersize=7.5, markerfacecolor=face, label=text)
        for face, text in words.items()
    ]
    legend_below(drawing, handles, columns=2)


def verdicts(shown: list[tuple[Metric, str, list[Curve]]]) -> str:
    """Write one sentence for each curve: at which steps to a smaller group size the value becomes worse."""
    words = []
    for _, title, curves in shown:
        for curve in curves:
            steps = [
                f"{flat(curve.sizes[rise.index - 1])} → {flat(curve.sizes[rise.index])} by {significant(rise.by)}"
                + (", more than chance" if rise.is_chance is False else "")
                for rise in curve.rises
            ]
            words.append(
                f"{title}, {curve.name}: worse at {'; '.join(steps)}." if steps else f"{title}, {curve.name}: none."
            )
    return " ".join(words)


def flat(size: str) -> str:
    """Join the two lines of a group size's text."""
    return size.replace("\n", " ")
