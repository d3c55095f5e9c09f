"""Draw the ranking metric with its 95 % interval as marks, in inline SVG. A method has one line, a bit width one mark.

Our rank and the paper's rank stand beside the marks, at the bits that order the lines. This module writes SVG itself. A
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
from qdit.report.render.marks import colour_class, mark, name_lines

CHARACTER = 8.0
"""Pixels of a character of a name, so that long names have room."""

INTERVALS = 5
"""About as many intervals between ticks has an axis that is not logarithmic."""

TICK = 46
"""Pixels that a label below the axis needs."""

LINE, TOP, BOTTOM = 27, 34, 30
HEAD, LEGEND = 16, 18
"""Pixels above the baseline of the legend, and from one line of it to the next."""

LETTERS, NAME_ROOM = 15, 14
"""Pixels from one line of a name to the next, and beside a name."""

VALUES = 76
"""Pixels of a column of values."""

RADIUS = 5.5


@dataclass(frozen=True)
class Layout:
    """Widths in pixels: the picture, the most that names get, the column of values, and one column of ranks.

    With 0 for the column of values, values stand only where no ranks do.
    """

    width: int
    names: int
    value: int
    ranks: int = 52

    def values(self, *, printed: bool) -> int:
        """Return the pixels of the column of values; `printed` says whether ranks stand beside it."""
        return self.value if printed else self.value or VALUES

    def right(self, *, printed: bool) -> int:
        """Return the pixels to the right of the axis, for the value, our rank and the paper's rank."""
        return 16 + self.values(printed=printed) + (2 * self.ranks if printed else 0)


WIDE = Layout(720, 232, 80, 66)
NARROW = Layout(362, 110, 0, 50)
PANEL = Layout(420, 140, VALUES, 56)


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


@dataclass(frozen=True)
class Frame:
    """Places in a picture, in pixels: the ends of the axis, its top, and the centre of each method's line.

    `names` has the name of each method in lines of text. `legend` has the place of each bit width in the legend.
    """

    left: float
    right: float
    top: float
    centres: tuple[float, ...]
    bottom: float
    names: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[float, float], ...]

    def x(self, value: float, shared: Axis) -> float:
        """Return the place of a value on the axis; the first and last marks do not touch the frame."""
        return self.left + RADIUS + shared.share(value) * (self.right - self.left - 2 * RADIUS)


def frame_of(plot: Plot, layout: Layout) -> Frame:
    """Return the places in the picture of a plot. A name in two lines makes its row of the picture taller."""
    left = min(max(CHARACTER * max(len(name) for name, _ in plot.lines) + NAME_ROOM, 80), layout.names)
    right = layout.width - layout.right(printed=plot.printed)
    legend = _legend_places(plot, left, right)
    top = TOP + legend[-1][1] - legend[0][1]
    names = tuple(name_lines(name, int((left - NAME_ROOM) / CHARACTER)) for name, _ in plot.lines)
    heights = [LINE + LETTERS * (len(lines) - 1) for lines in names]
    centres = tuple(top + sum(heights[:number]) + height / 2 for number, height in enumerate(heights))
    return Frame(left, right, top, centres, top + sum(heights), names, legend)


def _legend_places(plot: Plot, left: float, right: float) -> tuple[tuple[float, float], ...]:
    """Place of each bit width in the legend, (x, baseline); what does not fit above the axis begins another line."""
    places, x, y = [], left, HEAD
    for contest in plot.contests:
        width = 2 * RADIUS + 5 + CHARACTER * len(contest.bits)
        if x > left and x + width > right:
            x, y = left, y + LEGEND
        places.append((x, y))
        x += width + 11
    return tuple(places)


def dot_plot(block: Block, shared: Axis, layout: Layout = PANEL) -> str:
    """Draw one block as SVG; empty if there is no number. A method without a number gets a line that says so."""
    plot = plot_of(block)
    if plot is None:
        return ""
    frame = frame_of(plot, layout)
    height = f"{frame.bottom + BOTTOM:g}"
    size = f'viewBox="0 0 {layout.width} {height}" width="{layout.width}" height="{height}"'
    parts = [f'<svg {size} role="img" aria-label={quoteattr(alternative(plot))}>', *_axis(shared, frame)]
    parts += _heads(plot, layout, frame)
    for number, ((_, rows), standing) in enumerate(zip(plot.lines, plot.standings, strict=True)):
        y = frame.centres[number]
        parts.append(_name(frame.names[number], frame.left - 12, y))
        parts += _dots(plot, rows, shared, frame, y)
        parts += _columns(plot, rows, standing, layout, y)
    return "".join([*parts, "</svg>"])


def alternative(plot: Plot) -> str:
    """Write the text that describes the picture for people who cannot see it."""
    leading, *others = plot.contests
    order = ", ".join(f"{short_name(row)} {value_text(row)}" for row in leading.rows)
    also = f". Also drawn: {', '.join(contest.bits for contest in others)}" if others else ""
    return f"{ranking_metric().title} by method at {leading.bits}, from the least damage to the most: {order}{also}"


def series_of(plot: Plot, row: Row) -> int:
    """Return the number of a row's bits among those of the plot. The bits that order the lines have number 0."""
    return [contest.bits for contest in plot.contests].index(bits_of(row))


def _axis(shared: Axis, frame: Frame) -> Iterable[str]:
    for tick in shared.ticks(int((frame.right - frame.left) / TICK)):
        x = frame.x(tick, shared)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top:g}" y2="{frame.bottom:g}"/>'
        yield _text("tick", x, frame.bottom + 18, f"{tick:g}")


def _heads(plot: Plot, layout: Layout, frame: Frame) -> Iterable[str]:
    """The legend of bits above the axis, and the headings of the columns beside it."""
    for number, (contest, (x, y)) in enumerate(zip(plot.contests, frame.legend, strict=True)):
        yield mark(number, x + RADIUS, y - 4, RADIUS - 1)
        yield _text("legend", x + 2 * RADIUS + 5, y, contest.bits)
    y, ranks = frame.legend[-1][1], 2 * layout.ranks if plot.printed else 0
    if layout.values(printed=plot.printed):
        yield _text("column", layout.width - ranks - 6, y, ranking_metric().axis_title)
    if plot.printed:
        yield _text("column", layout.width - layout.ranks - 6, y, "our rank")
        yield _text("column", layout.width - 6, y, "paper’s")


def _dots(plot: Plot, rows: Sequence[Row], shared: Axis, frame: Frame, y: float) -> Iterable[str]:
    yield f'<line class="row" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    if not any(map(_drawn, rows)):
        yield _text("missing", frame.left + 4, y + 4, EQUAL if any(map(is_equal, rows)) else "missing")
    for row in reversed([row for contest in plot.contests for row in rows if bits_of(row) == contest.bits]):
        if not _drawn(row):
            continue
        series, metric = series_of(plot, row), ranking_metric().name
        if row.get(f"{metric}_low") is not None and row.get(f"{metric}_high") is not None:
            low, high = (frame.x(row[f"{metric}_{end}"], shared) for end in ("low", "high"))
            ends = f'x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
            yield f'<line class="range {colour_class(series)}" {ends}/>'
        yield mark(series, frame.x(row[metric], shared), y, RADIUS)


def _columns(plot: Plot, rows: Sequence[Row], standing: Standing | None, layout: Layout, y: float) -> Iterable[str]:
    """The value and both ranks at the leading bits; a rank of the paper that differs from ours stands out."""
    leading = [row for row in rows if any(row is other for other in plot.contests[0].rows)]
    ranks = 2 * layout.ranks if plot.printed else 0
    if layout.values(printed=plot.printed) and leading:
        yield _text("number", layout.width - ranks - 6, y + 4, value_text(leading[0], unit=False))
    if plot.printed and standing is not None:
        differs = "" if not standing.moved else " differs"
        yield _text("number", layout.width - layout.ranks - 6, y + 4, str(standing.rank or "–"))
        yield _text(f"number paper{differs}", layout.width - 6, y + 4, str(standing.paper_rank or "–"))


def _name(lines: Sequence[str], x: float, y: float) -> str:
    """The lines of a name, one below the other, with their middle at the height `y`."""
    first = y + 4 - LETTERS * (len(lines) - 1) / 2
    if len(lines) == 1:
        return _text("name", x, first, lines[0])
    spans = (f'<tspan x="{x:.1f}" y="{first + LETTERS * n:.1f}">{escape(line)}</tspan>' for n, line in enumerate(lines))
    return f'<text class="name">{"".join(spans)}</text>'


def _text(look: str, x: float, y: float, text: str) -> str:
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
