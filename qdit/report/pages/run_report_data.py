"""The data that the report of a run shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from qdit.report.claims.report import Report
from qdit.report.data.rows import Table
from qdit.report.pages.benches import Bench
from qdit.report.pages.findings import Finding
from qdit.report.pages.origins import Origins
from qdit.report.pages.pairs import Ranking
from qdit.report.render.gallery import Picture
from qdit.report.render.headline import Headline


@dataclass(frozen=True)
class RenderedTable:
    """A table of the report with its parts as HTML: rows, notes, panels (dots and curves) and drawings."""

    table: Table
    kind: str
    headline: Headline
    rows: Markup
    warnings: tuple[str, ...]
    small_print: Markup
    panels: Markup
    drawings: Markup


@dataclass(frozen=True)
class Sheets:
    """The contact sheets (small sample images in rows) of one table."""

    title: str
    html: Markup
    left_out: int
    file: str


@dataclass(frozen=True)
class Index:
    """Everything that the report of a run shows. `lead` is the title of the table whose finding opens the page."""

    report: Report
    lead: str
    hero: Markup
    showcase: Markup
    findings: Sequence[Finding]
    tables: Sequence[RenderedTable]
    board: RenderedTable
    least: Markup | None
    rankings: Mapping[str, Sequence[Ranking]]
    pictures: Sequence[tuple[str, Sequence[Picture]]]
    sheets: Sequence[Sheets]
    benches: Sequence[tuple[Bench, Markup, Markup]]
    study: tuple[Sequence[str], Markup] | None
    origins: Origins
    origin_rows: Markup
    choice_page: str | None

    def of(self, *kinds: str) -> list[RenderedTable]:
        """Return the tables of these kinds (`table2`, …)."""
        return [rendered for rendered in self.tables if rendered.kind in kinds]

    def but(self, *kinds: str) -> list[RenderedTable]:
        """Return the tables whose kind is none of these."""
        return [rendered for rendered in self.tables if rendered.kind not in kinds]
