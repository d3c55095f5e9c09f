"""A table as one self-contained HTML file: numbers, figures, contact sheets, notes."""

from pathlib import Path

from qdit.core.metrics import changed
from qdit.report.data.rows import Table
from qdit.report.render.fragments import (
    SHEETS_ABOUT,
    drawings_html,
    panels_html,
    rows_html,
    sheets_html,
    small_print_html,
)
from qdit.report.render.notes import notes
from qdit.report.render.page_files import style_sheet, template_text


def html_text(table: Table, results: Path) -> str:
    """The HTML of a table; `results` is the profile's folder, which holds the samples."""
    return template_text(
        "table.html.j2",
        table=table,
        css=style_sheet(),
        warnings=notes(table).warnings,
        changes=any(metric in changed() for metric in table.metrics),
        rows=rows_html(table),
        panels=panels_html(table),
        drawings=drawings_html(table),
        sheets=sheets_html(table.blocks, results).html if table.shows_samples else "",
        sheets_about=SHEETS_ABOUT.replace("one image", f"one {table.samples_are}"),
        small_print=small_print_html(table),
    )
