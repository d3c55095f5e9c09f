"""Draw the ranking metric with its 95 % interval as dots, in inline SVG. A method has one line, a bit width one colour.

Our rank and the paper's rank stand beside the dots, at the bits that order the lines. This module writes SVG itself. A
panel of matplotlib is eight times as large (9.8 against 1.2 KB) and takes a thousand times as long (95 against 0.1 ms).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from qdit.core.ranking import EQUAL, is_equal, ranking_metric, value_text
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Block, is_full_precision
from qdit.report.data.standings import Contest, Standing, bits_of, contests, short_name
from qdit.report.render.headline import PREFERRED

CHARACTER = 8.0
"""Pixels of a character of a name, so that long names have room."""

INTERVALS = 5
"""About as many intervals between ticks has an axis that is not logarithmic."""

TICK = 46
"""Pixels that a label below the axis needs."""

LINE, TOP, BOTTOM = 27, 34, 30
RADIUS = 5.5


@dataclass(frozen=True)
class Layout:
    """Widths in pixels: the picture, the longest name, the column of values (0: none), and one column of ranks."""

    width: int
    names: int
    value: int
    ranks: int = 52

    def right(self, *, printed: bool) -> int:
        """Return the pixels to the right of the axis, for the value, our rank and the paper's rank."""
        return 16 + self.value + (2 * self.ranks if printed else 0)


WIDE = Layout(720, 232, 80, 66)
NARROW = Layout(362, 110, 0, 50)
PANEL = Layout(420, 160, 70, 50)


@dataclass(frozen=True)
class Axis:
    """The horizontal axis, with a tick every `step`; all plots of a table share it.

    With `logarithmic` the ends and the step are powers of ten: the axis goes from 10^`low` to 10^`high`.
    """

    low: float
    high: float
    step: float = 1
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value on the axis, from 0 (left end) to 1 (right end).

        A value outside the axis gets the nearer end.
        """
        if self.logarithmic and value <= 0:
            return 0.0
        on_axis = math.log10(value) if self.logarithmic else value
        return min(max((on_axis - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self, room: int) -> list[float]:
        """Return the values of the ticks: every tick, or every second, third, … if there is no room for more."""
        count = round((self.high - self.low) / self.step)
        places = [self.low + number * self.step for number in range(0, count + 1, math.ceil(count / max(room, 1)))]
        return [10.0**place if self.logarithmic else place for place in places]


def axis(rows: Iterable[Row]) -> Axis | None:
    """Return the axis that contains all values of the rows. None without values.

    Its ends are whole decades if the metric is compared by ratios, else multiples of a step of 1, 2 or 5 times a power
    of ten.
    """
    values = [row[ranking_metric().name] for row in rows if _drawn(row)]
    if not values:
        return None
    if ranking_metric().ratios:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return Axis(low, max(high, low + 1), logarithmic=True)
    step = _round_step((max(values) - min(values)) / INTERVALS or 1.0)
    low, high = math.floor(min(values) / step), math.ceil(max(values) / step)
    return Axis(low * step, max(high, low + 1) * step, step)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, … and of their tenths, hundredths, … that is not below `least`."""
    decade = 10.0 ** math.floor(math.log10(least))
    return next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= least)


def _drawn(row: Row) -> bool:
    value = row.get(ranking_metric().name)
    return value is not None and (value > 0 or not ranking_metric().ratios) and not is_full_precision(row)


@dataclass(frozen=True)
class Plot:
    """The content of a plot: the rows by bit width (`contests`), and for each method a line (name, rows).

    The first contest orders the lines.
    """

    contests: tuple[Contest, ...]
    lines: tuple[tuple[str, tuple[Row, ...]], ...]

    @property
    def standings(self) -> list[Standing | None]:
        """Our rank and the paper's rank for each line, at the bits that order the plot."""
        leading = self.contests[0]
        by_name = {short_name(row): leading.standing(row) for row in leading.rows}
        return [by_name.get(name) for name, _ in self.lines]

    @property
    def printed(self) -> bool:
        """Whether the paper ranks at least two of the methods."""
        return len(self.contests[0].printed) > 1


def plot_of(block: Block) -> Plot | None:
    """Return the plot of a block: the best method comes first. None if no row has a number.

    Methods are ordered by their results at W4A8, or else at the fewest bits.
    """
    listed = contests(block)
    if not listed:
        return None
    order = sorted(listed, key=lambda contest: (contest.bits != PREFERRED, _bits(contest)))
    names = dict.fromkeys(short_name(row) for contest in order for row in contest.rows)
    rows = [row for row in block.rows if "key" in row and not is_full_precision(row)]
    names |= dict.fromkeys(short_name(row) for row in rows)
    lines = tuple((name, tuple(row for row in rows if short_name(row) == name)) for name in names)
    return Plot(tuple(order), lines)


def _bits(contest: Contest) -> int:
    return int(contest.first["weight_bits"] + contest.first["activation_bits"])


def dot_plot(block: Block, shared: Axis, layout: Layout = PANEL) -> str:
    """Draw one block as SVG; empty if there is no number. A method without a number gets a line that says so."""
    plot = plot_of(block)
    if plot is None:
        return ""
    names = min(max(CHARACTER * max(len(name) for name, _ in plot.lines) + 14, 80), layout.names)
    ends = names, layout.width - layout.right(printed=plot.printed)
    bottom = TOP + LINE * len(plot.lines)
    size = f'viewBox="0 0 {layout.width} {bottom + BOTTOM}" width="{layout.width}" height="{bottom + BOTTOM}"'
    parts = [f'<svg {size} role="img" aria-label={quoteattr(alternative(plot))}>', *_frame(shared, ends, bottom)]
    parts += _heads(plot, layout, names)
    for number, ((name, rows), standing) in enumerate(zip(plot.lines, plot.standings, strict=True)):
        y = TOP + LINE * (number + 0.5)
        parts.append(_text("name", names - 12, y + 4, _cut(name, names)))
        parts += _dots(plot, rows, shared, ends, y)
        parts += _columns(plot, rows, standing, layout, y)
    return "".join([*parts, "</svg>"])


def alternative(plot: Plot) -> str:
    """Write the text that describes the picture for people who cannot see it."""
    leading = plot.contests[0]
    order = ", ".join(f"{short_name(row)} {value_text(row)}" for row in leading.rows)
    return f"{ranking_metric().title} by method at {leading.bits}, from the least damage to the most: {order}"


def colour(plot: Plot, row: Row) -> str:
    """Return the CSS class for the bits of a row. The bits that order the lines have the accent colour."""
    return f"bits{[contest.bits for contest in plot.contests].index(bits_of(row)) % 4}"


def _frame(shared: Axis, ends: tuple[float, float], bottom: float) -> Iterable[str]:
    for tick in shared.ticks(int((ends[1] - ends[0]) / TICK)):
        x = _x(tick, shared, ends)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        yield _text("tick", x, bottom + 18, f"{tick:g}")


def _heads(plot: Plot, layout: Layout, names: float) -> Iterable[str]:
    """The legend of bits above the axis, and the headings of the columns beside it."""
    x = names
    for number, contest in enumerate(plot.contests[:4]):
        yield f'<circle class="dot bits{number}" cx="{x + RADIUS:.1f}" cy="12" r="{RADIUS - 1}"/>'
        yield _text("legend", x + 2 * RADIUS + 5, 16, contest.bits)
        x += 2 * RADIUS + 16 + CHARACTER * len(contest.bits)
    ranks = 2 * layout.ranks if plot.printed else 0
    if layout.value:
        yield _text("column", layout.width - ranks - 6, 16, ranking_metric().axis_title)
    if plot.printed:
        yield _text("column", layout.width - layout.ranks - 6, 16, "our rank")
        yield _text("column", layout.width - 6, 16, "paper’s")


def _dots(plot: Plot, rows: Sequence[Row], shared: Axis, ends: tuple[float, float], y: float) -> Iterable[str]:
    yield f'<line class="row" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    if not any(map(_drawn, rows)):
        yield _text("missing", ends[0] + 4, y + 4, EQUAL if any(map(is_equal, rows)) else "missing")
    for row in reversed([row for contest in plot.contests for row in rows if bits_of(row) == contest.bits]):
        if not _drawn(row):
            continue
        look, metric = colour(plot, row), ranking_metric().name
        if row.get(f"{metric}_low") is not None and row.get(f"{metric}_high") is not None:
            low, high = (_x(row[f"{metric}_{end}"], shared, ends) for end in ("low", "high"))
            yield f'<line class="range {look}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<circle class="dot {look}" cx="{_x(row[metric], shared, ends):.1f}" cy="{y:.1f}" r="{RADIUS}"/>'


def _columns(plot: Plot, rows: Sequence[Row], standing: Standing | None, layout: Layout, y: float) -> Iterable[str]:
    """The value and both ranks at the leading bits; a rank of the paper that differs from ours stands out."""
    leading = [row for row in rows if any(row is other for other in plot.contests[0].rows)]
    ranks = 2 * layout.ranks if plot.printed else 0
    if layout.value and leading:
        yield _text("number", layout.width - ranks - 6, y + 4, value_text(leading[0], unit=False))
    if plot.printed and standing is not None:
        differs = "" if not standing.moved else " differs"
        yield _text("number", layout.width - layout.ranks - 6, y + 4, str(standing.rank or "–"))
        yield _text(f"number paper{differs}", layout.width - 6, y + 4, str(standing.paper_rank or "–"))


def _x(value: float, shared: Axis, ends: tuple[float, float]) -> float:
    """Pixel of a value; the first and last dots do not touch the frame."""
    return ends[0] + RADIUS + shared.share(value) * (ends[1] - ends[0] - 2 * RADIUS)


def _text(look: str, x: float, y: float, text: str) -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _cut(name: str, width: float) -> str:
    """A name that fits; the table beside the picture has all of it."""
    room = int((width - 14) / CHARACTER)
    return name if len(name) <= room else f"{name[: room - 1].rstrip()}…"
