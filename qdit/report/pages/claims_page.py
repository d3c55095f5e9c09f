"""Make the page of claims: each claim with its verdicts and the numbers that decide them."""

from dataclasses import dataclass

from markupsafe import Markup
from tabulate import tabulate

from qdit.report.claims.claims import CONSTRUCTED, FAILS, HOLDS, KINDS, NOT_CHECKED, OPEN, Claim
from qdit.report.claims.report import Report, damaged_name
from qdit.report.claims.summary import counts, details, first_sentences, summary, verdicts_in_words, where_of
from qdit.report.claims.written import SHOWN, again, evidence_text
from qdit.report.render.page_files import style_sheet, template_markup, template_text
from qdit.report.render.text import markdown

MARKS = {HOLDS: "✓", FAILS: "✗", OPEN: "?", CONSTRUCTED: "=", NOT_CHECKED: "–"}
CLASSES = {HOLDS: "good", FAILS: "bad"}
LOOKS = {HOLDS: "good", FAILS: "bad", OPEN: "open", CONSTRUCTED: "made"}
"""Verdict → CSS class of a mark or a piece of a bar."""


@dataclass(frozen=True)
class ClaimCard:
    """A box that counts the verdicts from one source of numbers: title, counts in words, and a coloured bar.

    A piece of the bar is (verdict, count, CSS class).
    """

    title: str
    said: str
    bar: tuple[tuple[str, int, str], ...]


def claim_cards(report: Report) -> list[ClaimCard]:
    """Return one box with counted verdicts for each source of numbers."""
    return [
        ClaimCard(
            title=(title := where_of(report, source))[0].upper() + title[1:],
            said=f"{verdicts_in_words(report, source)}.",
            bar=tuple((word, count, LOOKS.get(word, "none")) for word, count in counts(report, source).items()),
        )
        for source in report.verdicts
    ]


def claims_markdown(report: Report) -> str:
    """Write the verdicts as GitHub-flavoured Markdown: a sentence for each source, then a table of all claims."""
    sources = list(report.verdicts)
    body = []
    for claim in report.claims.claims:
        said = [_verdict_text(report, source, claim) for source in sources]
        body.append([f"“{claim.words}” ({claim.source}, {claim.place})", *said])
    rows = [[markdown(cell) for cell in row] for row in body]
    table = tabulate(rows, ["Claim", *map(markdown, sources)], tablefmt="pipe", disable_numparse=True)
    text = ["# What the papers claim, and what the numbers say", "", f"**{markdown(report.face)}**", ""]
    text += [*(f"- {markdown(line)}" for line in summary(report)), "", str(table), ""]
    return "\n".join([*text, *(f"{markdown(remark)}.\n" for remark in report.remarks)])


def _verdict_text(report: Report, source: str, claim: Claim) -> str:
    """The mark, the word, how often it was the same with other draws, and the closest comparison."""
    verdict, stays = report.verdicts[source][claim.id], again(report, source, claim).text
    said = f"{MARKS[verdict.word]} {verdict.word}" + (f" ({stays})" if stays else "")
    return f"{said}: {evidence_text(verdict.evidence[0])}" if verdict.evidence else said


def claims_page(report: Report) -> str:
    """Return the page as HTML in one file that needs no other files."""
    return template_text(
        "claims.html.j2",
        report=report,
        css=style_sheet("claims.css", "board.css"),
        first_sentences=first_sentences(report),
        cards=claim_cards(report),
        damaged=damaged_name(report.profile),
        sources=list(report.verdicts),
        table=claims_table(report),
        contradictions=contradictions_list(report),
        reading=reading_items(report),
    )


def claims_table(report: Report) -> Markup:
    """Return the HTML table of all claims, with the verdict of each source and the numbers that decide it."""
    return template_markup(
        "claims_table.html.j2",
        report=report,
        sources=list(report.verdicts),
        titles=report.claims.documents,
        marks=MARKS,
        classes=CLASSES,
        shown=SHOWN,
        evidence=evidence_text,
        again=again,
    )


def contradictions_list(report: Report) -> Markup:
    """Return the HTML list of statements that contradict each other."""
    return template_markup("contradictions.html.j2", report=report)


def reading_items(report: Report) -> Markup:
    """Return the HTML list items that explain the kinds of claims and the verdicts."""
    controls = details(report)
    return template_markup("claims_reading.html.j2", report=report, kinds=KINDS, controls=controls)
