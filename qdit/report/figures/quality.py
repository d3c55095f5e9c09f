"""Draw FID and the ranking metric of all methods against the size of their weights, from the rows of the tables."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qdit.core.metrics import METRICS, shown_on
from qdit.core.ranking import damage_of, ranking_metric, value_text
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import printed_name
from qdit.report.data.rows import is_full_precision, is_measured
from qdit.report.data.standings import is_ranked
from qdit.report.figures.plan import Planned, blocks_of, subject_of_block
from qdit.report.figures.source import Missing, Source
from qdit.report.figures.style import GREY, Look, Sketch, legend_below, log_axis, looks
from qdit.report.render.allocation_figures import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

AREA = 3.2
"""Square points of a bubble for each bit operation of a multiplication."""

LONGEST = 6.0
"""On a logarithmic axis intervals are cut at this factor above and below the value."""


def sizes(source: Source, figure: Planned) -> Sketch:
    """Draw FID and the ranking metric of every method against the size of its weights.

    The area of a marker shows the bit operations of the row.
    """
    assert figure.subject is not None
    scope = source.block(figure)["scope"]
    rows = rows_at(source, figure, scope)
    measured = [row for row in rows if is_measured(row) and not is_full_precision(row)]
    full = next((row for row in rows if is_measured(row) and is_full_precision(row)), None)
    if not measured:
        raise Missing(f"no run of {figure.subject.setting}, {figure.subject.form} form, has metrics yet")
    shared = looks(list(dict.fromkeys(row["label"] for row in measured)))

    def draw(drawing: "Drawing") -> None:
        for number, metric in enumerate(shown_on("figures")):
            axes = drawing.add_subplot(1, len(shown_on("figures")), number + 1)
            bubbles(axes, measured, metric, shared)
            limits = [bound for row in measured for bound in bounds(row, metric)]
            if metric == "fid" and full is not None:
                axes.axhline(full["fid"], color=INK, linestyle="--", linewidth=1, zorder=1)
                limits.append(full["fid"])
            if METRICS[metric].ratios:
                log_axis(axes, limits)
            else:
                axes.grid(axis="y")
            named_columns(axes, measured)
            axes.set(
                xlabel="size of the model (MB, as the papers count)",
                ylabel=label_of(metric),
            )
        keys(drawing, shared, full)

    bits = list(dict.fromkeys(bits_of(row) for row in measured))
    lost = [row["short"] for row in rows if not is_measured(row)]
    caption = (
        f"Every method at {', '.join(bits)}; the area of a bubble is the bit operations of one multiplication (weight"
        f" bits × activation bits), thin lines are 95 % intervals (on a logarithmic axis cut at a factor of"
        f" {LONGEST:g}); methods of the same size stand side by side. {best(measured, bits)} {ranking_metric().reading}"
        + (f" Missing: {', '.join(lost)}." if lost else "")
    )
    return Sketch(
        f"FID and {ranking_metric().title} against model size",
        f"{source.describe(figure.subject)} · scope {scope}",
        caption,
        "Bubbles of all methods: quality against model size.",
        (8.8, 3.9),
        draw,
    )


def label_of(metric: str) -> str:
    """Write the label of an axis: the metric, and whether higher or lower is better."""
    return f"{METRICS[metric].axis_title}: {METRICS[metric].direction}"


def rows_at(source: Source, figure: Planned, scope: str) -> list[Row]:
    """Return the rows of the figure's model and form in one scope, from all tables that compare methods, each once."""
    rows: dict[tuple[str, str], Row] = {}
    for table, number, block in blocks_of(source.profile, "table2", "ptq4dit_table1", "tq_dit"):
        if subject_of_block(source.profile, block) == figure.subject and block["scope"] == scope:
            for row in source.table(table).blocks[number].rows:
                rows.setdefault((row["label"], bits_of(row)), row)
    return list(rows.values())


def bits_of(row: Row) -> str:
    """Write the bits of a row: `W4A8`."""
    return f"W{row['weight_bits']}A{row['activation_bits']}"


def bounds(row: Row, metric: str) -> tuple[float, ...]:
    """Return the value of a metric with its interval: (low end, value, high end).

    On a logarithmic axis both ends are at most a factor `LONGEST` away from the value. A row without an interval gives
    (value,). A value that is missing, or not positive on a logarithmic axis, gives ().
    """
    value, ratios = row[metric], METRICS[metric].ratios
    if value is None or (ratios and value <= 0):
        return ()
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    if low is None or high is None:
        return (value,)
    return (max(low, value / LONGEST), value, min(high, value * LONGEST)) if ratios else (low, value, high)


def positions_of(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return (label, bits) → horizontal position: the size. Methods with equal bits and size are moved side by side."""
    width = 0.05 * min(row["size_mb"] for row in rows)
    alike: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        alike.setdefault((bits_of(row), round(row["size_mb"], 2)), []).append(row)
    return {
        (row["label"], bits_of(row)): row["size_mb"] + (number - (len(rows_alike) - 1) / 2) * width
        for rows_alike in alike.values()
        for number, row in enumerate(rows_alike)
    }


def bubbles(axes: "Axes", rows: Sequence[Row], metric: str, shared: dict[str, Look]) -> None:
    """Draw a marker for each row with its interval. The area of the marker shows the bit operations of the row."""
    positions = positions_of(rows)
    for row in rows:
        look, limits = shared[row["label"]], bounds(row, metric)
        if not limits:
            continue
        x = positions[row["label"], bits_of(row)]
        axes.plot([x, x], [limits[0], limits[-1]], color=look.colour, linewidth=0.8, zorder=2)
        hollow = look.marker in "x+"
        axes.scatter(
            [x],
            [row[metric]],
            s=AREA * row["weight_bits"] * row["activation_bits"] * (0.6 if hollow else 1),
            marker=look.marker,
            facecolor=look.colour if hollow else f"{look.colour}88",
            edgecolor=None if hollow else look.colour,
            linewidths=1.3,
            zorder=3,
        )


def named_columns(axes: "Axes", rows: Sequence[Row]) -> None:
    """Write the bits above each group of sizes. Rows with equal weight bits share one text."""
    by_weight: dict[int, list[Row]] = {}
    for row in rows:
        by_weight.setdefault(row["weight_bits"], []).append(row)
    for weight_bits, rows_of_weight in sorted(by_weight.items()):
        inputs = sorted({row["activation_bits"] for row in rows_of_weight}, reverse=True)
        name = " and ".join(f"W{weight_bits}A{bits}" for bits in inputs)
        x = sum(row["size_mb"] for row in rows_of_weight) / len(rows_of_weight)
        axes.text(x, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", size=8, color=GREY)
    values = list(positions_of(rows).values())
    room = 0.08 * max(max(values) - min(values), 0.6 * min(values))
    axes.set_xlim(min(values) - room, max(values) + room)


def keys(drawing: "Drawing", shared: dict[str, Look], full: Row | None) -> None:
    """Draw the legend below the panels: markers of the methods, and the line of full precision."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=printed_name(label), color=look.colour, marker=look.marker, linestyle="none", markersize=7)
        for label, look in shared.items()
    ]
    if full is not None:
        text = f"full precision: FID {full['fid']:.2f}, {full['size_mb']:.2f} MB"
        handles.append(Line2D([], [], label=text, color=INK, linestyle="--", linewidth=1))
    legend_below(drawing, handles, columns=4)


def best(rows: Sequence[Row], bits: Iterable[str]) -> str:
    """Write which method has the least damage at each bit width."""
    words = []
    for name in bits:
        candidates = [row for row in rows if bits_of(row) == name and is_ranked(row)]
        if candidates:
            first = min(candidates, key=damage_of)
            words.append(f"{name} {printed_name(first['label'])} ({value_text(first)})")
    return f"Least damage by {ranking_metric().title}: {', '.join(words)}." if words else ""
