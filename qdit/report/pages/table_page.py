"""A table as one HTML file without anything from outside: numbers, figure, contact sheets, notes."""

from pathlib import Path

from markupsafe import Markup

from qdit.core.metrics import changed
from qdit.report.data.rows import Table
from qdit.report.render.fragments import (
    SHEETS_ABOUT,
    drawings_html,
    panels_html,
    render_text,
    rows_html,
    sheets_html,
    small_print_html,
)
from qdit.report.render.notes import notes
from qdit.report.render.style import CSS

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
{% if warnings %}
<ul class="bad">
{% for note in warnings %}<li>{{ note }}</li>
{% endfor %}</ul>
{% endif %}
</header>
<main>
{{ rows }}
{{ panels }}
{{ drawings }}
{% if table.shows_samples %}
<h2>Samples, {{ table.samples_are }} by {{ table.samples_are }}</h2>
<p class="muted">{{ sheets_about }}</p>
{{ sheets }}
{% endif %}
</main>
<footer>
{{ small_print }}
<p class="face">{{ table.face }}</p>
</footer>
</body>
</html>
"""


def html_text(table: Table, results: Path) -> str:
    """The page of a table; `results` is the profile's folder, where the samples of its runs are."""
    return render_text(
        TEMPLATE,
        table=table,
        css=Markup(CSS),
        warnings=notes(table).warnings,
        changes=any(metric in changed() for metric in table.metrics),
        rows=rows_html(table),
        panels=panels_html(table),
        drawings=drawings_html(table),
        sheets=sheets_html(table.blocks, results).html if table.shows_samples else "",
        sheets_about=SHEETS_ABOUT.replace("one image", f"one {table.samples_are}"),
        small_print=small_print_html(table),
    )
