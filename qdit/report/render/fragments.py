"""Render parts of pages as HTML: the rows of a table, its drawings, its contact sheets and its notes.

The page of a table (`table_page`) and the report of a run (`run_report`) are made of these parts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from qdit.core.metrics import METRICS
from qdit.core.metrics_record import Status
from qdit.core.ranking import axis_words, ranking_metric
from qdit.report.data import learning_curves as reconstruction
from qdit.report.data.rows import Block, Figure, Table
from qdit.report.data.standings import BEST, FIRST, TIED, TIED_BY_RUNS, Contest
from qdit.report.render.clips import clip_sheet, shows_clips
from qdit.report.render.display import (
    FITTED_MARK,
    OURS,
    TIED_MARK,
    Cell,
    Column,
    Line,
    bits_text,
    bits_words,
    columns,
    extra,
    has_ranks,
    has_verdicts,
    headings,
    lead,
    lines,
    status_column,
)
from qdit.report.render.figure import NARROW, WIDE, axis, dot_plot
from qdit.report.render.headline import Headline, headline
from qdit.report.render.notes import notes
from qdit.report.render.page_files import template_markup
from qdit.report.render.sheets import AMPLIFICATION, contact_sheet, data_uri

CLASSES = {"✓": "good", "✗": "bad"}
CLASSES |= {status[0]: "bad" for status in Status if status not in (Status.OK, Status.NOT_RUN)}
"""First character of a check or of a status → CSS class."""

VERDICTS = {BEST: "good", FIRST: "open", TIED: "open", TIED_BY_RUNS: "open"}
"""Verdict of a row → CSS class."""

SHEETS_ABOUT = (
    "Every row starts from the same noise, so a column shows one image as each method makes it. Below each strip: the"
    f" absolute difference to full precision, {AMPLIFICATION} times amplified (black is no difference)."
)


def hero_html(table: Table, finding: Headline | None = None, beside: Markup | None = None) -> Markup:
    """Return the top of a page: the sentence that answers the table's question, and its picture.

    The picture is there twice, for a desktop and for a phone. `beside` stands before the facts next to the picture.
    """
    finding = finding or headline(table)
    contest = finding.contest
    shared = axis(contest.block.rows) if contest is not None else None
    plots = {
        name: Markup(dot_plot(contest.block, shared, layout)) if contest is not None and shared is not None else ""
        for name, layout in (("wide", WIDE), ("narrow", NARROW))
    }
    cover = table.cover
    drawings = {} if cover is None else {"cover": Markup(cover.svg), "narrow_cover": Markup(cover.narrow_svg)}
    return template_markup(
        "hero.html.j2",
        headline=finding,
        caption=_caption(contest) if contest is not None else "",
        beside=beside or "",
        drawing=cover,
        uri=data_uri,
        **drawings,
        **plots,
    )


def _caption(contest: Contest) -> str:
    """What the picture at the top shows: the metric, the rows, the bits in words, and where intervals are."""
    words = bits_words(contest.first)
    return (
        f"{ranking_metric().axis_title} of each method with its 95 % interval{axis_words()}. {contest.block.title}."
        f" {words}. An interval that is narrower than its mark is hidden."
    )


def rows_html(table: Table, *, part: int = 0) -> Markup:
    """Return the numbers of a table as HTML: main columns, further columns behind a switch, and values to sort by."""
    if table.parts:
        rendered = [(title, rows_html(portion, part=n)) for n, (title, portion) in enumerate(table.portions)]
        return Markup("\n").join(Markup("<h3>{}</h3>\n{}").format(title, rows) for title, rows in rendered)
    shown = [column for column in columns(table) if not _stands_below(column)]
    hidden = extra(table, shown)
    return template_markup(
        "rows.html.j2",
        table=table,
        part=part,
        ranked=has_ranks(table),
        judged=has_verdicts(table),
        hidden=hidden,
        hidden_metrics=list(
            dict.fromkeys(column.heading for column, behind in zip(shown, hidden, strict=True) if behind)
        ),
        mark=FITTED_MARK,
        not_run=Status.NOT_RUN.value,
        lead=lead(table),
        columns=shown,
        headings=headings(shown),
        status_cell=shown[status_column(shown)].cell,
        width=len(shown) + len(lead(table)) + 1 + 3 * has_ranks(table) + has_verdicts(table),
        blocks=[(block, _body(lines(table, block, shown), shown)) for block in table.blocks],
        number=number,
        whole=_whole,
        value=_value,
        look=_look,
        moved=_moved,
        verdict=_verdict,
        edge=_edge,
    )


def _stands_below(column: Column) -> bool:
    """Whether a column repeats the intervals that stand below the values of another column."""
    metric = column.metric.removesuffix("_interval")
    return metric != column.metric and METRICS[metric].paired


def panels_html(table: Table, *, level: str = "h2") -> Markup:
    """Return the dot plots of all blocks, and the curves of learned rounding. Empty if there is nothing to draw."""
    shared = axis(table.rows)
    plots = [(block, Markup(dot_plot(block, shared))) for block in table.blocks] if shared else []
    return template_markup(
        "panels.html.j2",
        level=level,
        panels=[(block, plot) for block, plot in plots if plot],
        curves=[curve for block in table.blocks for curve in _curves(block)],
    )


def drawings_html(table: Table, *, level: str = "h2") -> Markup:
    """Return the figures that belong to the table itself, each with a PNG to save."""
    return template_markup("drawings.html.j2", table=table, level=level, uri=data_uri, drawing=_drawing)


@dataclass(frozen=True)
class RenderedSheets:
    """Contact sheets (small sample images) as HTML, the number of blocks shown, and of blocks left out."""

    html: Markup
    shown: int
    left_out: int


def sheets_html(blocks: Sequence[Block], results: Path, *, room: int | None = None) -> RenderedSheets:
    """Return the contact sheets of the first blocks whose pictures fit into `room` bytes; None: of all blocks."""
    sheets = []
    for block in blocks:
        sheet = clip_sheet(block, results) if shows_clips(block) else contact_sheet(block, results)
        if room is not None:
            room -= sum(len(picture) for s in sheet.strips for picture in (s.samples, s.difference) if picture) * 4 // 3
            if room < 0:
                break
        sheets.append((block, sheet))
    html = template_markup("sheets.html.j2", sheets=sheets, uri=data_uri)
    return RenderedSheets(html, len(sheets), len(blocks) - len(sheets))


def small_print_html(table: Table, *, level: str = "h2") -> Markup:
    """Return the notes: how to read a table, and how it was measured."""
    return template_markup("small_print.html.j2", small=notes(table), level=level)


def grid_html(
    label: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1, sortable: bool = True
) -> Markup:
    """Return a plain table as HTML. The first `texts` columns are words, the others numbers."""
    return template_markup(
        "grid.html.j2", label=label, headings=headings, rows=list(rows), texts=texts, sortable=sortable
    )


def number(text: str) -> str:
    """Replace the hyphen of a formatted number by a minus sign."""
    return text.replace("-", "−")


def _whole(heading: str) -> str:
    """A heading without line breaks before its arrow or at a hyphen."""
    return heading.replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑").replace("-", "\u2011")


def _drawing(figure: Figure) -> Markup:
    """The SVG as markup: it is safe, since this package drew it."""
    return Markup(figure.svg)


def _moved(line: Line) -> str:
    """`=`, `▲1` (one rank better than in the paper), `▼2` (two worse), or nothing."""
    moved = line.standing.moved if line.standing is not None else None
    return "" if moved is None else "=" if moved == 0 else f"{'▲' if moved < 0 else '▼'}{abs(moved)}"


def _body(block: list[Line], shown: list[Column]) -> list[tuple[Line, list[tuple[Cell, Column]], bool]]:
    """Lines with their cells and columns, and whether a line is the first of its bits."""
    starts = [n == 0 or line.lead != block[n - 1].lead for n, line in enumerate(block)]
    return [(line, list(zip(line.cells, shown, strict=True)), first) for line, first in zip(block, starts, strict=True)]


def _curves(block: Block) -> list[tuple[str, Markup]]:
    """(title, SVG) of every run of a block that learned its rounding."""
    logged = [(row, row["reconstruction"]) for row in block.rows if row.get("reconstruction") is not None]
    shared = reconstruction.axes([log for _, log in logged])
    if shared is None:
        return []
    titles = [f"{row['name']} {bits_text(row)} · {block.title}" for row, _ in logged]
    return [
        (title, Markup(reconstruction.panel(log, shared, title)))
        for title, (_, log) in zip(titles, logged, strict=True)
        if log.losses
    ]


def _value(cell: Cell, column: Column, line: Line, status_cell: str) -> Markup:
    """A cell's number, or the mark of a check; an unmeasured row shows its status in one cell."""
    if line.status and column.cell == status_cell:
        return Markup('<span class="{}">{}</span>').format(*_state(line.status))
    if column.metric == "check":
        return Markup('<span class="{}">{}</span>').format(CLASSES.get(cell.text[:1], "muted"), cell.text)
    text = number(cell.text)
    if cell.tied:
        text = f"{TIED_MARK} {text}"
    return Markup("<b>{}</b>").format(text) if cell.best else Markup("{}").format(text)


def _state(status: str) -> tuple[str, str]:
    """CSS class and word of a status: a missing row is marked as bad; a row that is left out on purpose is not."""
    return ("muted", status) if status == Status.NOT_RUN else ("bad", status.split(":")[0])


def _verdict(line: Line) -> Markup:
    """Verdict on a row: the best of its bits, possibly the best, or not the best."""
    words = line.standing.verdict if line.standing is not None else ""
    return Markup('<span class="{}">{}</span>').format(
        VERDICTS.get(words, "muted"), words.replace(" the best", " best")
    )


def _look(column: Column) -> str:
    """Classes of a column's cells."""
    paired = " paired" if column.metric in METRICS and METRICS[column.metric].paired else ""
    first = " edge" if column.source == OURS else ""
    return f"{column.source.replace(' ', '-')}{first}{paired}"


def _edge(column: Column) -> str:
    """Class of a column's heading: the first column of a metric has more space before it."""
    return "edge" if column.source == OURS else ""
