"""Parts of a page, each rendered by itself: the rows of a table, its drawings, its contact sheets, its small print.

The page of one table (page.py) and the report of a whole run (index_page.py) are put together from them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from qdit.core.metrics import METRICS
from qdit.core.metrics_record import Status
from qdit.report.data import learning_curves as reconstruction
from qdit.report.data.rows import Block, Figure, Table
from qdit.report.render.clips import clip_sheet, shows_clips
from qdit.report.render.display import (
    FITTED_MARK,
    OURS,
    TIED_MARK,
    Cell,
    Column,
    Line,
    bits_text,
    columns,
    headings,
    lead,
    lines,
    status_column,
)
from qdit.report.render.figure import axis, panel
from qdit.report.render.notes import notes
from qdit.report.render.sheets import AMPLIFICATION, contact_sheet, data_uri

CLASSES = {"✓": "good", "✗": "bad"}
CLASSES |= {status[0]: "bad" for status in Status if status not in (Status.OK, Status.NOT_RUN)}
"""First character of a check (the letters are of the statuses without numbers) → how it looks."""

ROWS = """{% macro sorts(column, label) %}{% if interactive %} data-sort="{{ column }}" data-label="{{ label }}"\
{% endif %}{% endmacro %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.title }}">
<table class="rows{% if columns | length > 10 %} wide{% endif %}{% if interactive %} sortable{% endif %}">
<thead>
<tr>{% for heading in lead %}<th class="first bits" rowspan="2"{{ sorts(loop.index0, heading) }}>{{ heading }}</th>\
{% endfor %}
<th class="first name" rowspan="2"{{ sorts(lead | length, "Method") }}>Method</th>
{%- for heading, count in headings %}<th class="edge" colspan="{{ count }}" scope="colgroup">{{ whole(heading) }}</th>
{%- endfor %}</tr>
<tr>{% for column in columns %}<th{{ edge(column) }} scope="col"\
{{ sorts(loop.index0 + lead | length + 1, column.heading ~ " " ~ column.under) }}>{{ whole(column.under) }}</th>\
{% endfor %}</tr>
</thead>
{% for block, body in blocks %}
<tbody>
<tr class="block"><th colspan="{{ width }}" scope="rowgroup"><span><b>{{ block.title }}</b> <small>{{ block.about }}\
</small></span></th></tr>
{% for line, cells, starts in body %}
<tr{% if starts %} class="bits-start"{% endif %}>
{%- for text in line.lead %}<th class="bits{% if not starts %} again{% endif %}"><span>{{ text }}</span></th>\
{% endfor -%}
<th class="name" scope="row">{{ line.name }}{% if line.fitted %} {{ mark }} <small>fitted</small>{% endif %}
<small class="inline-bits">{{ line.lead | join(", ") }}</small>
{%- if line.detail %}<small class="detail">{{ line.detail }}</small>{% endif %}
{%- if line.status and line.status != not_run %}<small class="bad">{{ line.status }}</small>{% endif %}</th>
{%- for cell, column in cells %}<td{{ look(column) }}>{{ value(cell, column, line, status_cell) }}\
{% if cell.change %}<small class="change">{{ number(cell.change) }}</small>{% endif %}\
{% if interactive and cell.gap %}<small class="gap">{{ number(cell.gap) }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
"""

PANELS = """{% if panels %}
<{{ level }}>Damage by method: FD-FP</{{ level }}>
<p class="muted">Fréchet distance to the full-precision samples, logarithmic, smaller is better; one axis for all
panels.</p>
<div class="panels">
{% for block, svg in panels %}<figure><figcaption>{{ block.title }}</figcaption>{{ svg }}</figure>
{% endfor %}</div>
{% endif %}
{% if curves %}
<{{ level }}>Reconstruction loss against iterations</{{ level }}>
<p class="muted">Mean loss of each block’s outputs while its rounding is learned, without the regularizer; logarithmic,
one pair of axes for the panels of a setting. Lines are named at their ends.</p>
<div class="panels">
{% for title, svg in curves %}<figure><figcaption>{{ title }}</figcaption>{{ svg }}</figure>
{% endfor %}</div>
{% endif %}
"""

DRAWINGS = """{% for figure in table.figures %}
<{{ level }}>{{ figure.title }}</{{ level }}>
<p class="muted">{{ figure.about }} <a download="{{ table.name }}-{{ loop.index }}.png"\
 href="{{ uri(figure.png) }}">as PNG</a></p>
<div class="scroll" tabindex="0" role="region" aria-label="{{ figure.title }}">{{ drawing(figure) }}</div>
{% endfor %}
"""

SHEETS = """{% macro tall(sheet) %}{% if sheet.height %} style="height:{{ sheet.height }}px;image-rendering:pixelated"\
{% endif %}{% endmacro %}
{% for block, sheet in sheets %}
<h3>{{ block.title }}</h3>
<div class="scroll" tabindex="0" role="region" aria-label="Samples, {{ block.title }}">
<div class="sheet">
{% if sheet.labels %}<div class="label corner muted">{{ sheet.corner }}</div><div class="classes">
{%- for label in sheet.labels %}<span style="width:{{ sheet.tile + sheet.gap }}px">{{ label }}</span>{% endfor %}</div>
{% endif %}
{% for strip in sheet.strips %}
<div class="label">{{ strip.row.short }}</div>
<div>{% if strip.samples %}<img src="{{ uri(strip.samples) }}"{{ tall(sheet) }} alt="Samples of {{ strip.row.short }}">\
{% endif %}
{% if strip.difference %}<img src="{{ uri(strip.difference) }}"{{ tall(sheet) }} alt="Difference of\
 {{ strip.row.short }} to full precision">{% endif %}
{% if strip.note %}<span class="bad">{{ strip.note }}</span>{% endif %}</div>
{% endfor %}
</div>
{% if sheet.captions %}<ol class="muted">{% for caption in sheet.captions %}<li>{{ caption }}</li>{% endfor %}</ol>
{% endif %}
</div>
{% endfor %}
"""

SMALL_PRINT = """<{{ level }}>Notes</{{ level }}>
<ul>
{% for note in small.reading %}<li>{{ note }}</li>
{% endfor %}</ul>
<{{ level }}>How it was measured</{{ level }}>
<dl>
{% for name, what in small.measured %}<dt>{{ name }}</dt><dd>{{ what }}</dd>
{% endfor %}</dl>
"""

GRID = """<div class="scroll" tabindex="0" role="region" aria-label="{{ label }}">
<table class="grid{% if sortable %} sortable{% endif %}">
<thead><tr>{% for heading in headings %}<th scope="col"{% if loop.index0 < texts %} class="first"{% endif %}\
 data-sort="{{ loop.index0 }}" data-label="{{ heading }}">{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td{% if loop.index0 < texts %} class="text"{% endif %}>{{ cell }}</td>\
{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
"""

SHEETS_ABOUT = (
    "Every row starts from the same noise, so a column shows one image as each method makes it. Below each strip: the"
    f" absolute difference to full precision, {AMPLIFICATION} times amplified (black is no difference)."
)


@cache
def environment() -> Environment:
    """Templates of all parts; everything that is not marked as markup is escaped."""
    parts = {"rows": ROWS, "panels": PANELS, "drawings": DRAWINGS, "sheets": SHEETS, "small": SMALL_PRINT, "grid": GRID}
    return Environment(
        loader=DictLoader(parts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(part: str, **context: Any) -> Markup:
    """A part by its name."""
    return Markup(environment().get_template(part).render(**context))


def render_text(template: str, **context: Any) -> str:
    """A whole page from its own template."""
    return environment().from_string(template).render(**context)


def rows_html(table: Table, *, interactive: bool = False) -> Markup:
    """The numbers of a table. `interactive`: what a script can sort by and switch to, ours − paper."""
    if table.parts:
        parts = [(title, rows_html(part, interactive=interactive)) for title, part in table.portions]
        return Markup("\n").join(Markup("<h3>{}</h3>\n{}").format(title, rows) for title, rows in parts)
    shown = columns(table)
    return render(
        "rows",
        table=table,
        interactive=interactive,
        mark=FITTED_MARK,
        not_run=Status.NOT_RUN.value,
        lead=lead(table),
        columns=shown,
        headings=headings(shown),
        status_cell=shown[status_column(shown)].cell,
        width=len(shown) + len(lead(table)) + 1,
        blocks=[(block, _body(lines(table, block, shown), shown)) for block in table.blocks],
        number=number,
        whole=_whole,
        value=_value,
        look=_look,
        edge=_edge,
    )


def panels_html(table: Table, *, level: str = "h2") -> Markup:
    """FD-FP of every row as dots, and the curves of learned rounding; empty where there is nothing to draw."""
    shared = axis(table)
    return render(
        "panels",
        level=level,
        panels=[(block, Markup(panel(block, shared))) for block in table.blocks] if shared else [],
        curves=[curve for block in table.blocks for curve in _curves(block)],
    )


def drawings_html(table: Table, *, level: str = "h2") -> Markup:
    """The table's own drawings, with their PNG to save."""
    return render("drawings", table=table, level=level, uri=data_uri, drawing=_drawing)


@dataclass(frozen=True)
class RenderedSheets:
    """Contact sheets as markup, how many blocks they show, and how many had to be left out."""

    html: Markup
    shown: int
    left_out: int


def sheets_html(blocks: Sequence[Block], results: Path, *, room: int | None = None) -> RenderedSheets:
    """Contact sheets of blocks, in order, while their pictures fit into `room` bytes."""
    sheets = []
    for block in blocks:
        sheet = clip_sheet(block, results) if shows_clips(block) else contact_sheet(block, results)
        if room is not None:
            room -= sum(len(picture) for s in sheet.strips for picture in (s.samples, s.difference) if picture) * 4 // 3
            if room < 0:
                break
        sheets.append((block, sheet))
    html = render("sheets", sheets=sheets, uri=data_uri)
    return RenderedSheets(html, len(sheets), len(blocks) - len(sheets))


def small_print_html(table: Table, *, level: str = "h2") -> Markup:
    """How to read a table and how it was measured."""
    return render("small", small=notes(table), level=level)


def grid_html(
    label: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1, sortable: bool = True
) -> Markup:
    """A plain table; the first `texts` columns are words, the others numbers."""
    return render("grid", label=label, headings=headings, rows=list(rows), texts=texts, sortable=sortable)


def number(text: str) -> str:
    """A formatted number with a real minus sign."""
    return text.replace("-", "−")


def _whole(heading: str) -> str:
    """A heading that is not broken before its arrow, nor at a hyphen."""
    return heading.replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑").replace("-", "\u2011")


def _drawing(figure: Figure) -> Markup:
    """The SVG, which we drew ourselves."""
    return Markup(figure.svg)


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
    """A cell's number, good or bad for a mark; a row that was not measured says so in one of our cells."""
    if line.status and column.cell == status_cell:
        return Markup('<span class="{}">{}</span>').format(*_state(line.status))
    if column.metric == "check":
        return Markup('<span class="{}">{}</span>').format(CLASSES.get(cell.text[:1], "muted"), cell.text)
    text = number(cell.text)
    if cell.tied:
        text = f"{TIED_MARK} {text}"
    return Markup("<b>{}</b>").format(text) if cell.best else Markup("{}").format(text)


def _state(status: str) -> tuple[str, str]:
    """Class and word for a status: what is missing is alarming, what is not run is not."""
    return ("muted", status) if status == Status.NOT_RUN else ("bad", status.split(":")[0])


def _look(column: Column) -> Markup:
    """Class attribute of a column's cells."""
    paired = " paired" if column.metric in METRICS and METRICS[column.metric].paired else ""
    first = " edge" if column.source == OURS else ""
    return Markup(' class="{}{}{}"').format(column.source.replace(" ", "-"), first, paired)


def _edge(column: Column) -> Markup:
    """Class attribute of a column's heading: more room before the first column of a metric."""
    return Markup(' class="edge"') if column.source == OURS else Markup("")
