"""Make the HTML page of a table, in one file: finding, picture, samples, numbers, further figures, notes."""

from pathlib import Path

from markupsafe import Markup

from qdit.core.metrics import METRICS, changed
from qdit.report.data.rows import Table
from qdit.report.render.fragments import (
    SHEETS_ABOUT,
    drawings_html,
    hero_html,
    panels_html,
    rows_html,
    sheets_html,
    small_print_html,
)
from qdit.report.render.headline import Headline, headline, progress_text
from qdit.report.render.notes import notes
from qdit.report.render.page_files import script, style_sheet, template_text
from qdit.report.render.showcase import showcase_html


def html_text(table: Table, results: Path, finding: Headline | None = None) -> str:
    """Return the HTML page of a table. `results` is the profile's folder with the samples.

    `finding` replaces the headline that is computed from the rows.
    """
    finding = finding or headline(table)
    contest = finding.contest
    return template_text(
        "table.html.j2",
        table=table,
        css=style_sheet("board.css"),
        script=script("board.js"),
        progress=progress_text(table),
        hero=hero_html(table, finding),
        showcase=showcase_html(contest, results) if contest is not None and table.shows_samples else Markup(""),
        warnings=notes(table).warnings,
        changes=any(metric in changed() for metric in table.metrics),
        intervals=_has_intervals(table),
        rows=rows_html(table),
        panels=panels_html(table),
        curves=any(row.get("reconstruction") is not None for row in table.rows),
        drawings=drawings_html(table),
        sheets=sheets_html(table.blocks, results).html if table.shows_samples else "",
        sheets_about=SHEETS_ABOUT.replace("one image", f"one {table.samples_are}"),
        small_print=small_print_html(table),
    )


def _has_intervals(table: Table) -> bool:
    """Whether a range stands below some value of the table."""
    bounded = [metric for name in table.metrics if (metric := METRICS.get(name)) and metric.board_interval]
    ends = [end for metric in bounded if metric.paired for end in metric.low_and_high]
    return any(row.get(end) is not None for row in table.rows for end in ends)
