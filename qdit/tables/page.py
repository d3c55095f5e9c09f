"""A table as one HTML file without anything from outside: numbers, figure, contact sheets, notes."""

from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qdit.tables import reconstruction
from qdit.tables.display import (
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
from qdit.tables.figure import axis, panel
from qdit.tables.notes import notes
from qdit.tables.results import NOT_RUN
from qdit.tables.rows import CHANGED, Block, Figure, Table
from qdit.tables.sheets import AMPLIFICATION, contact_sheet, data_uri
from qdit.tables.style import CSS

PAIRED = ("fd_fp", "mse_fp")
CLASSES = {"✓": "good", "✗": "bad", "m": "bad", "f": "bad", "u": "bad"}
"""First character of a check (the letters are of missing, failed, unsupported) → how it looks."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ table.title }}</title>
<style>{{ css }}</style>
</head>
<body>
<header>
<h1>{{ table.title }}</h1>
<p class="face">{{ table.face }}</p>
{% for sentence in table.summary %}<p class="summary">{{ sentence }}</p>
{% endfor %}
{% if changes %}
<p>{% if table.paper_protocol %}Every number beside the published one ({{ table.paper_protocol }}). {% endif %}
Small below a value: its difference to full precision (FP) of the same block.</p>
{% endif %}
{% if small.warnings %}
<ul class="bad">
{% for note in small.warnings %}<li>{{ note }}</li>
{% endfor %}</ul>
{% endif %}
</header>
<main>
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.title }}">
<table>
<thead>
<tr>{% for heading in lead %}<th class="first bits" rowspan="2">{{ heading }}</th>{% endfor %}
<th class="first name" rowspan="2">Method</th>
{%- for heading, count in headings %}<th class="edge" colspan="{{ count }}" scope="colgroup">{{ heading }}</th>
{%- endfor %}</tr>
<tr>{% for column in columns %}<th{{ edge(column) }} scope="col">{{ column.under }}</th>{% endfor %}</tr>
</thead>
{% for block, body in blocks %}
<tbody>
<tr class="block"><th colspan="{{ width }}" scope="rowgroup"><span><b>{{ block.title }}</b> <small>{{ block.about }}\
</small></span></th></tr>
{% for line, cells, starts in body %}
<tr{% if starts %} class="bits-start"{% endif %}>
{%- for text in line.lead %}<th class="bits">{{ text if starts else "" }}</th>{% endfor -%}
<th class="name" scope="row">{{ line.name }}{% if line.fitted %} {{ mark }} <small>fitted</small>{% endif %}
<small class="inline-bits">{{ line.lead | join(", ") }}</small>
{%- if line.detail %}<small class="detail">{{ line.detail }}</small>{% endif %}
{%- if line.status and line.status != not_run %}<small class="bad">{{ line.status }}</small>{% endif %}</th>
{%- for cell, column in cells %}<td{{ look(column) }}>{{ value(cell, column, line, status_cell) }}\
{% if cell.change %}<small>{{ number(cell.change) }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
{% endfor %}
</table>
</div>
{% if panels %}
<h2>Damage by method: FD-FP</h2>
<p class="muted">Fréchet distance to the full-precision samples, logarithmic, smaller is better; one axis for all
panels.</p>
<div class="panels">
{% for block, svg in panels %}<figure><figcaption>{{ block.title }}</figcaption>{{ svg }}</figure>
{% endfor %}</div>
{% endif %}
{% if curves %}
<h2>Reconstruction loss against iterations</h2>
<p class="muted">Mean loss of each block’s outputs while its rounding is learned, without the regularizer; logarithmic,
one pair of axes for the panels of a setting. Lines are named at their ends.</p>
<div class="panels">
{% for title, svg in curves %}<figure><figcaption>{{ title }}</figcaption>{{ svg }}</figure>
{% endfor %}</div>
{% endif %}
{% for figure in table.figures %}
<h2>{{ figure.title }}</h2>
<p class="muted">{{ figure.about }} <a download="{{ table.name }}-{{ loop.index }}.png"\
 href="{{ uri(figure.png) }}">as PNG</a></p>
<div class="scroll" tabindex="0" role="region" aria-label="{{ figure.title }}">{{ drawing(figure) }}</div>
{% endfor %}
{% if table.shows_samples %}
<h2>Samples, image by image</h2>
<p class="muted">Every row starts from the same noise, so a column shows one image as each method makes it. Below each
strip: the absolute difference to full precision, {{ amplification }} times amplified (black is no difference).</p>
{% for block, sheet in sheets %}
<h3>{{ block.title }}</h3>
<div class="scroll" tabindex="0" role="region" aria-label="Samples, {{ block.title }}">
<div class="sheet">
{% if sheet.labels %}<div class="label corner muted">class asked for</div><div class="classes">
{%- for label in sheet.labels %}<span style="width:{{ sheet.tile + sheet.gap }}px">{{ label }}</span>{% endfor %}</div>
{% endif %}
{% for strip in sheet.strips %}
<div class="label">{{ strip.row.short }}</div>
<div>{% if strip.samples %}<img src="{{ uri(strip.samples) }}" alt="Samples of {{ strip.row.short }}">{% endif %}
{% if strip.difference %}<img src="{{ uri(strip.difference) }}" alt="Difference of {{ strip.row.short }} to full\
 precision">{% endif %}
{% if strip.note %}<span class="bad">{{ strip.note }}</span>{% endif %}</div>
{% endfor %}
</div>
</div>
{% endfor %}
{% endif %}
</main>
<footer>
<h2>Notes</h2>
<ul>
{% for note in small.reading %}<li>{{ note }}</li>
{% endfor %}</ul>
<h2>How it was measured</h2>
<dl>
{% for name, what in small.measured %}<dt>{{ name }}</dt><dd>{{ what }}</dd>
{% endfor %}</dl>
<p class="face">{{ table.face }}</p>
</footer>
</body>
</html>
"""


def html_text(table: Table, results: Path) -> str:
    """The page of a table; `results` is the profile's folder, where the samples of its runs are."""
    shown = columns(table)
    shared = axis(table)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE).render(
        table=table,
        css=Markup(CSS),
        small=notes(table),
        mark=FITTED_MARK,
        not_run=NOT_RUN,
        changes=any(metric in CHANGED for metric in table.metrics),
        lead=lead(table),
        columns=shown,
        headings=headings(shown),
        status_cell=shown[status_column(shown)].cell,
        width=len(shown) + len(lead(table)) + 1,
        blocks=[(block, _body(lines(table, block, shown), shown)) for block in table.blocks],
        panels=[(block, Markup(panel(block, shared))) for block in table.blocks] if shared else [],
        curves=[curve for block in table.blocks for curve in _curves(block)],
        sheets=[(block, contact_sheet(block, results)) for block in table.blocks if table.shows_samples],
        amplification=AMPLIFICATION,
        uri=data_uri,
        drawing=_drawing,
        number=number,
        value=_value,
        look=_look,
        edge=_edge,
    )


def _drawing(figure: Figure) -> Markup:
    """The SVG, which we drew ourselves."""
    return Markup(figure.svg)


def number(text: str) -> str:
    """A formatted number with a real minus sign."""
    return text.replace("-", "−")


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
    return ("muted", status) if status == NOT_RUN else ("bad", status.split(":")[0])


def _look(column: Column) -> Markup:
    """Class attribute of a column's cells."""
    paired = " paired" if column.metric in PAIRED else ""
    first = " edge" if column.source == OURS else ""
    return Markup(' class="{}{}{}"').format(column.source.replace(" ", "-"), first, paired)


def _edge(column: Column) -> Markup:
    """Class attribute of a column's heading: more room before the first column of a metric."""
    return Markup(' class="edge"') if column.source == OURS else Markup("")
