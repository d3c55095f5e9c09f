"""The page of claims: each claim with its verdicts and the numbers that decide."""

from markupsafe import Markup

from qdit.report.claims.claims import CONSTRUCTED, FAILS, HOLDS, KINDS, NOT_CHECKED, OPEN
from qdit.report.claims.report import SHOWN, Report, evidence_text, summary
from qdit.report.render.page_files import style_sheet, template_markup, template_text

MARKS = {HOLDS: "✓", FAILS: "✗", OPEN: "?", CONSTRUCTED: "=", NOT_CHECKED: "–"}
CLASSES = {HOLDS: "good", FAILS: "bad"}


def claims_page(report: Report) -> str:
    """The page as one self-contained HTML file."""
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
    """The list of contradicting statements."""
    return template_markup("contradictions.html.j2", report=report)


def reading_items(report: Report) -> Markup:
    """Items of a list: the meaning of the kinds and of the verdicts."""
    return template_markup("claims_reading.html.j2", report=report, kinds=KINDS)
