"""What a rendered table shows, before it is Markdown, LaTeX or HTML: columns, formatted cells, best values."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from qdit.core.metric_names import DIMENSIONS, TOTALS
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import CHANGED, Block, Table, is_measured

BLANK = "–"
TIED_MARK = "≈"
Source = Literal["ours", "paper", "on disk", "DiT-XL/2", "DiT-XL/2 on disk"]
OURS: Source = "ours"
PAPER: Source = "paper"
ON_DISK: Source = "on disk"
SHAPE: Source = "DiT-XL/2"
SHAPE_ON_DISK: Source = "DiT-XL/2 on disk"
"""Sizes of the paper's model, from its shapes (`qdit.report.data.sizes`)."""
FITTED_MARK = "†"


def fixed(decimals: int) -> Callable[[float], str]:
    """Formatter with a fixed number of decimals."""
    return lambda value: f"{value:.{decimals}f}"


def significant(value: float) -> str:
    """Three significant digits without an exponent where that is readable: 0.0352, 12.3, 1870."""
    if value == 0 or 1e-4 <= abs(value) < 100:
        return f"{value:#.3g}"
    return f"{value:.0f}" if abs(value) >= 100 else scientific(value)


def scientific(value: float) -> str:
    """Three significant digits and an exponent: 9.80e-4; 0 for what is exactly that."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def size(value: float) -> str:
    """Megabytes on disk: whole ones, two decimals below 100."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def printed_size(value: float) -> str:
    """Megabytes as the paper counts and prints them: whole ones, truncated (`qdit.quant.size.printed_mb`)."""
    return f"{int(value)}" if value >= 100 else size(value)


FORMATS: dict[str, Callable[[float], str]] = {
    "size_mb": lambda value: printed_size(value),
    "size_actual_mb": lambda value: size(value),
    "fid": fixed(2),
    "sfid": fixed(2),
    "is": fixed(2),
    "precision": fixed(4),
    "fd_fp": significant,
    "mse_fp": scientific,
    **dict.fromkeys((*DIMENSIONS, *TOTALS), fixed(4)),
    "mfvd": significant,
    "ratio_fd_fp": significant,
    "latent_largest": scientific,
    "latent_mean": scientific,
    "images_sampled": fixed(0),
    "search_seconds": fixed(0),
    "budget_used": lambda value: f"{value:.1%}",
    "harmonic_mean_group_size": fixed(1),
}

LOWER_IS_BETTER = {"fid": True, "sfid": True, "is": False, "precision": False, "fd_fp": True, "mse_fp": True}
LOWER_IS_BETTER |= dict.fromkeys((*DIMENSIONS, *TOTALS), False) | {"mfvd": True}

OWN = (
    "ratio_fd_fp",
    "latent_largest",
    "latent_mean",
    "images_sampled",
    "search_seconds",
    "budget_used",
    "harmonic_mean_group_size",
)
"""Numbers that no paper prints: their headings need not say whose they are."""

HEADINGS = {
    "size_mb": "Size (MB)",
    "fid": "FID ↓",
    "sfid": "sFID ↓",
    "is": "IS ↑",
    "precision": "Precision ↑",
    "fd_fp": "FD-FP ↓",
    "mse_fp": "MSE-FP ↓",
    **{name: f"{name.replace('_', ' ').capitalize()} ↑" for name in DIMENSIONS},
    **{name: f"{name.capitalize()} total ↑" for name in ("quality", "semantic")},
    "total": "Total ↑",
    "mfvd": "mFVD ↓",
    "ratio_fd_fp": "FD-FP ÷ base",
    "latent_largest": "Latents: largest difference",
    "latent_mean": "Latents: mean difference",
    "images_sampled": "Images sampled",
    "search_seconds": "Search (s)",
    "budget_used": "Budget used",
    "harmonic_mean_group_size": "Mean g",
    "check": "Between",
    "rank": "Rank",
    "fd_fp_interval": "95 % of FD-FP",
    "fid_interval": "95 % of FID",
}


@dataclass(frozen=True)
class Column:
    """One column: the row's cell it shows, the heading it stands under, and whose number it is."""

    cell: str
    metric: str
    source: Source

    @property
    def heading(self) -> str:
        """Heading shared with the neighbours of the same metric."""
        return HEADINGS[self.metric]

    @property
    def under(self) -> str:
        """Whose number it is, where that is not plain from the heading."""
        return self.source if self.metric in FORMATS and self.metric not in OWN else ""

    @property
    def change(self) -> str | None:
        """The row's cell with the difference to full precision, if that is shown."""
        if self.metric not in CHANGED:
            return None
        return f"change_{self.metric}" if self.source == OURS else f"published_change_{self.metric}"


@dataclass(frozen=True)
class Cell:
    """One formatted cell; `change` is the signed difference to full precision or empty, `gap` that to the paper.

    `tied`: not the best, but no further from it than chance explains.
    """

    text: str
    change: str = ""
    best: bool = False
    source: Source = OURS
    tied: bool = False
    gap: str = ""


@dataclass(frozen=True)
class Line:
    """One row as shown; `status` is empty for a measured one and else says what is missing and why.

    `lead` are the cells before the method: bits (where the table shows them) and scope.
    """

    lead: tuple[str, ...]
    name: str
    detail: str
    fitted: bool
    status: str
    cells: tuple[Cell, ...]


def columns(table: Table) -> list[Column]:
    """Columns in the paper's order, the paired metrics last; a paper column without any number is left out."""
    shown = []
    for metric in table.metrics:
        shown.append(Column(metric, metric, OURS))
        if metric == "size_mb":
            shown.append(Column("size_actual_mb", metric, ON_DISK))
            real = {"shape_size_mb": SHAPE, "shape_actual_mb": SHAPE_ON_DISK}
            shown += [Column(name, metric, real[name]) for name in real if name in table.extra]
        printed = f"published_{metric}"
        if any(row.get(printed) is not None for row in table.rows):
            shown.append(Column(printed, metric, PAPER))
    return shown


def lead(table: Table) -> tuple[str, ...]:
    """Headings of the columns before the method."""
    return ("Bits", "Scope") if table.shows_bits else ("Scope",)


def headings(shown: list[Column]) -> list[tuple[str, int]]:
    """(heading, number of columns under it)."""
    return [(heading, len(list(group))) for heading, group in groupby(column.heading for column in shown)]


def lines(table: Table, block: Block, shown: list[Column]) -> list[Line]:
    """The rows of a block, formatted."""
    best = best_cells(block) if table.marks_best else set()
    tied = tied_cells(block, best)
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
        )
        for number, row in enumerate(block.rows)
    ]


def bits_text(row: Row) -> str:
    """`W4A8`."""
    return f"W{row['weight_bits']}A{row['activation_bits']}"


def status_column(shown: list[Column]) -> int:
    """Index of the column in which a row that was not measured says so: our FID, or else the first of ours."""
    ours = [n for n, column in enumerate(shown) if column.source == OURS]
    return next((n for n in ours if shown[n].metric == "fid"), ours[0])


def _cell(row: Row, column: Column, *, best: bool, tied: bool) -> Cell:
    value = row.get(column.cell)
    if value is None:
        return Cell(BLANK, source=column.source)
    if isinstance(value, str):
        return Cell(value, source=column.source)
    style = FORMATS["size_actual_mb" if column.source in (ON_DISK, SHAPE_ON_DISK) else column.metric]
    change = row.get(column.change) if column.change else None
    gap = row.get(f"difference_{column.metric}") if column.source == OURS else None
    change, gap = ("" if value is None else signed(style, value) for value in (change, gap))
    return Cell(style(value), change, best, column.source, tied, gap)


def signed(style: Callable[[float], str], value: float) -> str:
    """A difference with its sign; a difference that rounds to zero has none."""
    text = style(abs(value))
    if not any(digit in "123456789" for digit in text):
        return f"±{text}"
    return f"{'+' if value > 0 else '-'}{text}"


def best_cells(block: Block) -> set[tuple[int, str]]:
    """(row number, cell) of the best of our values among the quantized rows of equal bits; equal print, equal rank."""
    best: set[tuple[int, str]] = set()
    quantized = [(n, row) for n, row in enumerate(block.rows) if row.get("method") != "fp"]
    for bits in dict.fromkeys((row["weight_bits"], row["activation_bits"]) for _, row in quantized):
        rivals = [(n, row) for n, row in quantized if (row["weight_bits"], row["activation_bits"]) == bits]
        for metric, lower in LOWER_IS_BETTER.items():
            values = {n: row[metric] for n, row in rivals if row.get(metric) is not None}
            if len(values) > 1:
                winner = FORMATS[metric](min(values.values()) if lower else max(values.values()))
                best |= {(n, metric) for n, value in values.items() if FORMATS[metric](value) == winner}
    return best


def tied_cells(block: Block, best: set[tuple[int, str]]) -> set[tuple[int, str]]:
    """(row number, cell) of values whose paired difference to the best one at equal bits has an interval with zero."""
    tied: set[tuple[int, str]] = set()
    for n, row in enumerate(block.rows):
        for winner, metric in best:
            other = block.rows[winner]
            rivals = row.get("method") != "fp" and all(
                row[name] == other[name] for name in ("weight_bits", "activation_bits")
            )
            gap = difference(row, other, metric) if rivals and (n, metric) not in best else None
            if gap is not None and gap.is_chance:
                tied.add((n, metric))
    return tied
