"""Prepare the values for the template `run_report.html.j2`, the report of a run."""

from typing import TYPE_CHECKING, Any

from qdit.report.claims.report import PRINTED
from qdit.report.claims.summary import ORDER
from qdit.report.pages.claims_page import (
    CLASSES,
    LOOKS,
    MARKS,
    claim_cards,
    claims_table,
    contradictions_list,
    reading_items,
)
from qdit.report.pages.findings import short_title
from qdit.report.pages.pairs import MEANINGS
from qdit.report.render.fragments import SHEETS_ABOUT
from qdit.report.render.page_files import script, style_sheet

if TYPE_CHECKING:
    from qdit.report.pages.run_report_data import Index

SECTIONS = {
    "summary": "Summary",
    "tables": "Tables",
    "uncertainty": "Chance",
    "figures": "Figures",
    "samples": "Samples",
    "kernels": "Kernels",
    "search": "Search",
    "quality": "Controls",
    "contradictions": "Contradictions",
    "provenance": "Provenance",
}


GROUPS = {
    "data": "Weights and activations",
    "methods": "What the methods do",
    "samples": "Samples side by side",
    "search": "Searches",
}
"""Groups of figures (`qdit.report.figures.plan`) → headings."""

PLURALS = {"holds": "hold", "does not hold": "do not hold"}
SIGNS = {"<": "good", ">": "bad", "≈": "open"}


def context(index: "Index") -> dict[str, Any]:
    """Return name → value for every name in the template."""
    report = index.report
    return {
        "index": index,
        "report": report,
        "css": style_sheet("claims.css", "board.css", "run_report.css"),
        "script": script("run_report.js", "board.js"),
        "sections": SECTIONS,
        "printed": PRINTED,
        "sources": list(report.verdicts),
        "cards": claim_cards(report),
        "groups": GROUPS,
        "plurals": PLURALS,
        "marks": MARKS,
        "classes": CLASSES,
        "looks": {word: LOOKS.get(word, "none") for word in ORDER},
        "signs": {sign: SIGNS.get(sign, "none") for sign in (*MEANINGS, "·")},
        "meanings": MEANINGS,
        "claims": claims_table(report),
        "reading": reading_items(report),
        "contradictions": contradictions_list(report),
        "lead": index.lead,
        "short": short_title,
        "tables": index.but("qc"),
        "controls": index.of("qc"),
        "searches": index.of("table6", "transfer"),
        "sheets_about": SHEETS_ABOUT,
    }
