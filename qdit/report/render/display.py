"""Choose columns, format cells and mark the best values of a table, in the same way for Markdown, LaTeX and HTML."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from qdit.core.intervals import LEVEL
from qdit.core.metrics import METRICS, changed
from qdit.core.ranking import known_value, ranking_metric
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.multiplicity import Separation
from qdit.report.data.rows import Block, Table, is_full_precision, is_measured
from qdit.report.data.standings import Standing, bits_of, standings

BLANK = "–"
PERFECT = "equal"
"""Cell of a quantized row whose samples equal full precision's, in a metric that would be infinite."""
TIED_MARK = "≈"
Source = Literal["ours", "paper", "on disk", "DiT-XL/2", "DiT-XL/2 on disk"]
OURS: Source = "ours"
PAPER: Source = "paper"
ON_DISK: Source = "on disk"
SHAPE: Source = "DiT-XL/2"
SHAPE_ON_DISK: Source = "DiT-XL/2 on disk"
"""Sizes of the paper's model, from its shapes (`qdit.report.data.sizes`)."""
FITTED_MARK = "†"


DECIDING = frozenset(
    {
        *("rank", ranking_metric().name, "fid", "fd_fp", "check", "ratio_fd_fp", "latent_largest", "images_sampled"),
        "total",
    }
)
"""Metrics that a page shows at once; the others stand behind its switch “more columns”."""

OTHER_HEADINGS = {
    "check": "Between controls",
    "rank": "Rank",
    "lossless": "Lossless",
    "granularity": "Ranges, input × weight",
}
"""Headings of columns of words."""


def heading_of(column: str) -> str:
    """Return the heading of a column that holds a metric with its unit, the interval of a metric, or words."""
    if column.endswith("_interval"):
        return f"{round(100 * LEVEL)} % interval of {METRICS[column.removesuffix('_interval')].title}"
    if column not in METRICS:
        return OTHER_HEADINGS[column]
    metric = METRICS[column]
    return metric.column_heading.replace(metric.title, metric.axis_title, 1)


@dataclass(frozen=True)
class Column:
    """One column: the key of the row's cell that it shows, the metric, and the source of the number."""

    cell: str
    metric: str
    source: Source

    @property
    def heading(self) -> str:
        """Heading of the column. Neighbouring columns of the same metric share it."""
        return heading_of(self.metric)

    @property
    def under(self) -> str:
        """Second line of the heading: the source of the numbers, such as `paper`; empty for words and facts of rows."""
        return self.source if self.metric in METRICS and METRICS[self.metric].of != "row" else ""

    @property
    def change(self) -> str | None:
        """Key of the row's cell with the difference to full precision; None if the difference is not shown."""
        if self.metric not in changed():
            return None
        return f"change_{self.metric}" if self.source == OURS else f"published_change_{self.metric}"


@dataclass(frozen=True)
class Cell:
    """One formatted cell. `change` is the difference to full precision with its sign, or empty.

    `gap` is the difference to the paper. `interval` is the 95 % interval, for paired metrics whose interval the
    leaderboard shows. `tied` marks a cell that is not the best, but whose difference to the best can be chance.
    """

    text: str
    change: str = ""
    best: bool = False
    source: Source = OURS
    tied: bool = False
    gap: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """One displayed row. `status` is empty for a measured row; else it says what is missing and why.

    `lead` are the cells before the method: bits (if the table shows them) and scope. `standing` is the rank of the row.
    """

    lead: tuple[str, ...]
    name: str
    detail: str
    fitted: bool
    status: str
    cells: tuple[Cell, ...]
    standing: Standing | None = None


def columns(table: Table) -> list[Column]:
    """Return the columns in the order of the table's metrics. A column that is blank in all rows is left out.

    That is a paper column without any number, or a metric that a run need not have and that no row has.
    """
    shown = []
    for metric in [name for name in table.metrics if not _is_blank(table, name)] or table.metrics:
        shown.append(Column(metric, metric, OURS))
        if metric == "size_mb":
            shown.append(Column("size_actual_mb", metric, ON_DISK))
            real = {"shape_size_mb": SHAPE, "shape_actual_mb": SHAPE_ON_DISK}
            shown += [Column(name, metric, real[name]) for name in real if name in table.extra]
        printed = f"published_{metric}"
        if any(row.get(printed) is not None for row in table.rows):
            shown.append(Column(printed, metric, PAPER))
    return shown


def _is_blank(table: Table, metric: str) -> bool:
    """Whether neither we nor the paper have a number of a metric that a measured run need not have."""
    if metric in DECIDING or metric not in METRICS or not METRICS[metric].optional:
        return False
    cells = {metric, f"published_{metric}"}
    return any(map(is_measured, table.rows)) and all(row.get(cell) is None for row in table.rows for cell in cells)


def extra(table: Table, shown: list[Column]) -> list[bool]:
    """Return for each column whether it is hidden behind the switch "More columns".

    The deciding metrics are never hidden. Without a deciding metric nothing is hidden.
    """
    decide = [column.metric in DECIDING or column.metric in table.front for column in shown]
    return [any(decide) and not shown_at_once for shown_at_once in decide]


def has_ranks(table: Table) -> bool:
    """Return whether the paper's ranks stand beside our ranks."""
    return any(standing and standing.paper_rank for block in table.blocks for standing in standings(block))


def has_verdicts(table: Table) -> bool:
    """Return whether the table says for each row if it is worse than the best row of equal bits."""
    return table.marks_best and any(s and s.verdict for block in table.blocks for s in standings(block))


def rank_text(standing: Standing | None) -> str:
    """Write our rank and the paper's rank: `2 (paper 3)`. Empty if the paper does not rank the row."""
    if standing is None or standing.paper_rank is None:
        return ""
    return f"{standing.rank} (paper {standing.paper_rank})"


def lead(table: Table) -> tuple[str, ...]:
    """Return the headings of the columns before the method."""
    return ("Bits", "Scope") if table.shows_bits else ("Scope",)


def headings(shown: list[Column]) -> list[tuple[str, int]]:
    """Return pairs of a heading and the number of columns below it."""
    return [(heading, len(list(group))) for heading, group in groupby(column.heading for column in shown)]


def lines(table: Table, block: Block, shown: list[Column]) -> list[Line]:
    """Format the rows of a block for display."""
    best = best_cells(block) if table.marks_best else set()
    tied = tied_cells(block, best)
    places = standings(block)
    return [
        Line(
            lead=(*((bits_text(row),) if table.shows_bits else ()), row["scope"]),
            name=row["name"],
            detail=row.get("detail", ""),
            fitted=row.get("fitted") is not None,
            status="" if is_measured(row) else row["status"],
            cells=tuple(
                _cell(row, column, best=(number, column.cell) in best, tied=(number, column.cell) in tied)
                for column in shown
            ),
            standing=places[number],
        )
        for number, row in enumerate(block.rows)
    ]


def bits_text(row: Row) -> str:
    """Write the bits of a row: `W4A8`."""
    return bits_of(row)


def bits_words(row: Row) -> str:
    """Write what the bits of a row stand for: `W4A8: weights with 4 bits, activations with 8 bits`."""
    return f"{bits_of(row)}: weights with {row['weight_bits']} bits, activations with {row['activation_bits']} bits"


def status_column(shown: list[Column]) -> int:
    """Return the index of the column where a row without a result shows its status: our FID, else our first."""
    ours = [n for n, column in enumerate(shown) if column.source == OURS]
    return next((n for n in ours if shown[n].metric == "fid"), ours[0])


def _cell(row: Row, column: Column, *, best: bool, tied: bool) -> Cell:
    value = row.get(column.cell)
    if value is None:
        is_perfect = column.source == OURS and not is_full_precision(row) and _value(row, column.metric) is not None
        return Cell(PERFECT if is_perfect else BLANK, best=best, source=column.source)
    if isinstance(value, str):
        return Cell(value, source=column.source)
    style = METRICS["size_actual_mb" if column.source in (ON_DISK, SHAPE_ON_DISK) else column.metric].write
    change = row.get(column.change) if column.change else None
    gap = row.get(f"difference_{column.metric}") if column.source == OURS else None
    change, gap = ("" if value is None else signed(style, value) for value in (change, gap))
    metric = METRICS[column.metric]
    interval = _interval(row, column) if metric.paired and metric.board_interval else ""
    return Cell(style(value), change, best, column.source, tied, gap, interval)


def _value(row: Row, metric: str) -> float | None:
    """Value of a row in a metric; infinite if only samples that equal full precision's have no number in it."""
    return known_value(row, METRICS[metric]) if metric in METRICS else None


def _interval(row: Row, column: Column) -> str:
    """`0.0021 … 0.0030`, or nothing where the row has no interval."""
    low, high = (row.get(name) for name in METRICS[column.metric].low_and_high)
    write = METRICS[column.metric].write
    return "" if low is None or high is None else f"{write(low)} … {write(high)}"


def signed(style: Callable[[float], str], value: float) -> str:
    """Write a difference with its sign. A difference that rounds to zero gets the sign ±."""
    text = style(abs(value))
    if not any(digit in "123456789" for digit in text):
        return f"±{text}"
    return f"{'+' if value > 0 else '-'}{text}"


def best_cells(block: Block) -> set[tuple[int, str]]:
    """Return the positions (row number, metric) of our best values among quantized rows of equal bits.

    Values that are printed alike are all best.
    """
    best: set[tuple[int, str]] = set()
    quantized = [(n, row) for n, row in enumerate(block.rows) if not is_full_precision(row)]
    for bits in dict.fromkeys((row["weight_bits"], row["activation_bits"]) for _, row in quantized):
        rivals = [(n, row) for n, row in quantized if (row["weight_bits"], row["activation_bits"]) == bits]
        for metric in (metric for metric in METRICS.values() if metric.better):
            values = {n: value for n, row in rivals if (value := _value(row, metric.name)) is not None}
            if len(values) > 1:
                winner = metric.write(min(values.values()) if metric.lower_is_better else max(values.values()))
                best |= {(n, metric.name) for n, value in values.items() if metric.write(value) == winner}
    return best


def tied_cells(block: Block, best: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return the positions (row number, metric) whose difference to the best value at equal bits can be chance.

    All pairs of rows of these bits are compared, with Holm's correction (`qdit.report.data.multiplicity`).
    """
    tied: set[tuple[int, str]] = set()
    quantized = [(n, row) for n, row in enumerate(block.rows) if not is_full_precision(row)]
    for bits in dict.fromkeys(bits_text(row) for _, row in quantized):
        rivals = [(n, row) for n, row in quantized if bits_text(row) == bits]
        numbers = {n for n, _ in rivals}
        for metric in {metric for n, metric in best if n in numbers}:
            tied |= _tied_in(metric, rivals, [n for n, name in best if name == metric and n in numbers])
    return tied


def _tied_in(metric: str, rivals: list[tuple[int, Row]], best: list[int]) -> set[tuple[int, str]]:
    """Positions of one metric whose difference to a best row has an interval and can be chance."""
    separation, rows = Separation([row for _, row in rivals], metric), dict(rivals)
    tied = set()
    for n, row in rivals:
        for winner in best if n not in best else ():
            gap = difference(row, rows[winner], metric)
            if gap is not None and gap.interval is not None and not separation.apart(row, rows[winner]):
                tied.add((n, metric))
    return tied
