"""The page of claims: what held, what did not, what cannot be told, and the numbers that say so."""

from markupsafe import Markup

from qdit.report.claims.claims import CONSTRUCTED, FAILS, HOLDS, KINDS, NOT_CHECKED, OPEN
from qdit.report.claims.report import SHOWN, Report, evidence_text, summary
from qdit.report.render.page_files import style_sheet, template_markup, template_text

MARKS = {HOLDS: "✓", FAILS: "✗", OPEN: "?", CONSTRUCTED: "=", NOT_CHECKED: "–"}
CLASSES = {HOLDS: "good", FAILS: "bad"}


def claims_page(report: Report) -> str:
    """The page as one file without anything from outside."""
    return template_text(
        "claims.html.j2",
        report=report,
        css=style_sheet("claims.css"),
        summary=summary(report),
        sources=list(report.verdicts),
        table=claims_table(report),
        contradictions=contradictions_list(report),
        reading=reading_items(report),
    )


def claims_table(report: Report) -> Markup:
    """Every claim with the verdict of each source and the numbers that decide."""
    return template_markup(
        "claims_table.html.j2",
        report=report,
        sources=list(report.verdicts),
        titles=report.claims.documents,
        marks=MARKS,
        classes=CLASSES,
        shown=SHOWN,
        evidence=evidence_text,
    )


def contradictions_list(report: Report) -> Markup:
    """Statements that do not fit each other."""
    return template_markup("contradictions.html.j2", report=report)


def reading_items(report: Report) -> Markup:
    """Items of a list: what kinds and verdicts mean."""
    return template_markup("claims_reading.html.j2", report=report, kinds=KINDS)
