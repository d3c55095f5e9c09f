"""Make the report of a run as one page: claims, tables, figures, samples, kernels, search, controls, provenance.

The page computes no result; it reads the results of the run. The functions that make the pages of single tables also
render the parts of this page. A missing cell shows the reason.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from qdit.core.files import write_text
from qdit.core.run import Run
from qdit.report.claims.report import Report, load_report
from qdit.report.claims.summary import first_sentences
from qdit.report.data.rows import Block, Table, is_measured
from qdit.report.pages.benches import Bench, Grid, benches_of
from qdit.report.pages.claims_page import claim_cards
from qdit.report.pages.findings import LEAST_HEADINGS, findings, least_damage, short_title
from qdit.report.pages.leaderboard import leaderboard
from qdit.report.pages.origins import origins, run_path
from qdit.report.pages.pairs import Ranking, rankings
from qdit.report.pages.run_report_data import Index, RenderedTable, Sheets
from qdit.report.pages.run_report_page import context
from qdit.report.pages.searches_report import study_grid
from qdit.report.render.fragments import (
    drawings_html,
    grid_html,
    hero_html,
    panels_html,
    rows_html,
    sheets_html,
    small_print_html,
)
from qdit.report.render.gallery import gallery
from qdit.report.render.headline import headline, progress_text
from qdit.report.render.notes import notes
from qdit.report.render.page_files import template_markup, template_text
from qdit.report.render.showcase import showcase_html
from qdit.report.tables.comparison import COMPARISONS
from qdit.report.tables.kinds import load_table
from qdit.workflow.profile import all_runs, default_tables

NAME = "index.html"
LIMIT = 15_000_000
"""Bytes that a page may have, so that it can be mailed."""

SPARE = 300_000
"""Bytes reserved for the text around the pictures."""


PRINTED_FIRST = (*(f"table{number}" for number in range(1, 7)), "ptq4dit_table1", "tq_dit")
"""Kinds of tables that papers print, in the order of the page."""


def load_index(profile: Mapping[str, Any], results: Path) -> Index:
    """Read everything that the report shows. A picture is left out if the page would be too large to mail.

    The page then says which pictures are left out.
    """
    report, board = load_report(profile, results), leaderboard(profile, results)
    tables = _tables(profile, results)
    rendered_tables = [_rendered(table, profile["tables"][table.name]["kind"]) for table in tables]
    compared = [rendered.table for rendered in rendered_tables if rendered.kind in COMPARISONS]
    ranked = {short_title(table): table_rankings for table in compared if (table_rankings := rankings(table))}
    control = next((rendered.table for rendered in rendered_tables if rendered.kind == "qc"), None)
    rendered_board = _rendered(board, "leaderboard")
    room = LIMIT - SPARE - sum(map(_bytes, [rendered_board, *rendered_tables]))
    pictures = gallery(results, room // 2)
    room -= sum(len(picture.uri or "") for _, of in pictures for picture in of)
    origin = origins(profile, results, board)
    lead = leading(rendered_tables)
    contest = lead.headline.contest if lead is not None else None
    return Index(
        report=report,
        lead=_lead_text(lead),
        hero=_hero(report, lead),
        showcase=showcase_html(contest, results) if contest is not None else Markup(""),
        findings=findings(report, board, ranked, control),
        tables=rendered_tables,
        board=rendered_board,
        least=_least(ranked),
        rankings=ranked,
        pictures=pictures,
        sheets=_sheets(tables, results, room),
        benches=[_bench(bench) for bench in benches_of(results)],
        study=study_grid(results),
        origins=origin,
        origin_rows=_grid("Runs and where they come from", origin.rows),
        choice_page="ab.html" if (results / "ab.html").is_file() else None,
    )


def leading(tables: Sequence[RenderedTable]) -> RenderedTable | None:
    """Return the table whose finding opens the page: the first comparison with several rows, else the first table."""
    compared = [rendered for rendered in tables if rendered.kind in COMPARISONS]
    several = (rendered for rendered in compared if rendered.headline.contest is not None)
    return next(several, next(iter(compared or tables), None))


def _lead_text(lead: RenderedTable | None) -> str:
    """`Q-DiT, Table 2 · 7 of 75 rows so far`."""
    return " · ".join(filter(None, (short_title(lead.table), progress_text(lead.table)))) if lead is not None else ""


def _hero(report: Report, lead: RenderedTable | None) -> Markup:
    """The finding of the leading table beside the claims of all papers."""
    claims = template_markup("claims_card.html.j2", first_sentences=first_sentences(report), cards=claim_cards(report))
    return hero_html(lead.table, lead.headline, beside=claims) if lead is not None else claims


def index_text(index: Index) -> str:
    """Return the page as HTML in one file that needs no other files."""
    return template_text("run_report.html.j2", **context(index))


def build_index(profile: Mapping[str, Any], results: Path, out: Path) -> Path:
    """Write the page and return its path; equal results at one commit give equal bytes."""
    write_text(out, index_text(load_index(profile, results)))
    return out


def _tables(profile: Mapping[str, Any], results: Path) -> list[Table]:
    """The default tables, and other tables with a measured run that no default table has; the papers' tables first."""
    default, shown_tables = default_tables(profile), []
    usual = {run.path for run in all_runs(profile)}
    for name in sorted(profile["tables"], key=lambda name: (_place(profile["tables"][name]["kind"]), name)):
        table = load_table(profile, name, results)
        measured = [row for row in table.rows if is_measured(row) and run_path(row) not in usual]
        if name in default or measured:
            shown_tables.append(table)
    return shown_tables


def _place(kind: str) -> int:
    """Sort key of a kind of table."""
    return PRINTED_FIRST.index(kind) if kind in PRINTED_FIRST else len(PRINTED_FIRST)


def _rendered(table: Table, kind: str) -> RenderedTable:
    return RenderedTable(
        table=table,
        kind=kind,
        headline=headline(table),
        rows=rows_html(table),
        warnings=notes(table).warnings,
        small_print=small_print_html(table, level="h4"),
        panels=panels_html(table, level="h4"),
        drawings=drawings_html(table, level="h3"),
    )


def _bytes(rendered: RenderedTable) -> int:
    """Bytes of a table's rows, panels and drawings in the page."""
    return sum(len(text.encode()) for text in (rendered.rows, rendered.panels, rendered.drawings))


def _sheets(tables: Sequence[Table], results: Path, room: int) -> list[Sheets]:
    """Contact sheets of all tables; a block is left out if an earlier block shows the same runs."""
    seen: list[set[Run]] = []
    listed = []
    for table in tables:
        if not table.shows_samples:
            continue
        blocks = [block for block in table.blocks if not any(_keys(block) <= other for other in seen)]
        seen += map(_keys, blocks)
        rendered = sheets_html(blocks, results, room=room)
        room -= len(rendered.html)
        if blocks:
            listed.append(Sheets(table.title, rendered.html, rendered.left_out, f"tables/{table.name}.html"))
    return listed


def _keys(block: Block) -> set[Run]:
    return {row["key"] for row in block.rows if "key" in row}


def _least(ranked: Mapping[str, Sequence[Ranking]]) -> Markup | None:
    """The method with the least damage, table by table; None if nothing can be ranked."""
    rows = [row for title, of in ranked.items() for row in least_damage(title, of)]
    return grid_html("Least damage", LEAST_HEADINGS, rows, texts=3) if rows else None


def _bench(bench: Bench) -> tuple[Bench, Markup, Markup]:
    """A record of a benchmark with its goals and its numbers as markup."""
    return bench, _grid(f"{bench.title}: goals", bench.goals), _grid(f"{bench.title}: measured", bench.measured)


def _grid(label: str, grid: Grid | None) -> Markup:
    return grid_html(label, grid.headings, grid.rows, texts=grid.texts) if grid else Markup("")
