"""Write the verdicts as text for a terminal and as CSV."""

import csv
import io
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.files import write_text
from qdit.report.claims.claims import Claim, Verdict
from qdit.report.claims.report import Report
from qdit.report.claims.summary import summary
from qdit.report.claims.survival import Agreement, agreement
from qdit.report.data.values import Evidence

SHOWN = 12
"""Number of comparisons shown for each verdict; the CSV has their total number."""

COLUMNS = (
    *("id", "kind", "source", "place", "words", "reading", "table", "form"),
    *("evaluated_on", "verdict", "why", "metrics", "comparisons", "closest", "low", "high", "p_value", "alone"),
    "would_tell",
    *("profile", "face", "runs_compared", "runs_agreeing", "runs_lacking_rows"),
)


def text_of(report: Report, *, width: int = 110) -> str:
    """Write all claims for a terminal: the words of each claim, then the verdict and numbers of each source."""
    lines = [report.face, ""]
    for claim in report.claims.claims:
        lines += textwrap.wrap(f"{claim.id}: “{claim.words}” ({claim.source}, {claim.place})", width)
        if claim.reading:
            lines += textwrap.wrap(f"read as: {claim.reading}", width, initial_indent="  ", subsequent_indent="    ")
        for name, verdicts in report.verdicts.items():
            verdict = verdicts[claim.id]
            reasons = (verdict.why, *map(evidence_text, verdict.evidence[:1]), again(report, name, claim).text)
            about = "; ".join(filter(None, (*reasons, verdict.tells if verdict.missing else "")))
            words = f"{name + ':':<9} {verdict.word}" + (f" ({about})" if about else "")
            lines += textwrap.wrap(words, width, initial_indent="  ", subsequent_indent=" " * 12)
    lines += ["", "Contradictions:"]
    for entry in report.claims.contradictions:
        numbers = f" (docs/differences.md, no. {', '.join(map(str, entry.differences))})" if entry.differences else ""
        words = f"{entry.id}, {entry.between}: {entry.first} — but: {entry.second}{numbers}"
        lines += textwrap.wrap(words, width, initial_indent="  ", subsequent_indent="    ")
    said = [line for text in summary(report) for line in textwrap.wrap(text, width, subsequent_indent="  ")]
    return "\n".join([*lines, "", *report.remarks, *said]) + "\n"


def evidence_text(piece: Evidence) -> str:
    """Write a comparison with its interval. “: no” marks a comparison that is false."""
    text = piece.text + (": no" if piece.outcome is False else "")
    if piece.interval is None:
        return text
    low, high = (f"{limit:.3g}" for limit in piece.interval)
    return f"{text}, difference {low} … {high}"


def csv_of(report: Report) -> str:
    """Write the verdicts as CSV: one line for each pair of claim and source."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for claim in report.claims.claims:
        for name, verdicts in report.verdicts.items():
            writer.writerow(_cells(claim, name, verdicts[claim.id], report))
    return text.getvalue()


def _cells(claim: Claim, name: str, verdict: Verdict, report: Report) -> Iterable[Any]:
    closest = verdict.evidence[0] if verdict.evidence else None
    low, high = closest.interval if closest is not None and closest.interval is not None else ("", "")
    known = (claim.id, claim.kind, claim.source, claim.place, claim.words, claim.reading, claim.table, claim.form)
    said = (name, verdict.word, verdict.why, " ".join(verdict.metrics), len(verdict.evidence))
    return (
        *known,
        *said,
        evidence_text(closest) if closest is not None else "",
        low,
        high,
        "" if verdict.p is None else f"{verdict.p:.3g}",
        verdict.alone,
        verdict.tells,
        report.profile,
        report.face,
        *_survived(claim, name, report),
    )


def again(report: Report, source: str, claim: Claim) -> Agreement:
    """Count how often a verdict was compared with other random draws, and how often it was the same."""
    return replace(agreement(report.survival.get(source, ()), claim.id), of_means=bool(report.seeds))


def _survived(claim: Claim, source: str, report: Report) -> tuple[int | str, ...]:
    """Number of other runs that a verdict was compared with, those with the same verdict, and those that lack rows.

    Blank for a verdict that decides nothing, and without other runs.
    """
    counted = again(report, source, claim)
    if not counted.compared and not counted.lacking:
        return ("", "", "")
    return (counted.compared, counted.agreeing, counted.lacking)


def write_report(report: Report, page: str, markdown: str, out: Path) -> list[Path]:
    """Write the HTML `page` to `out`, and the CSV and the `markdown` beside it; equal results give equal bytes.

    Raises ConfigError if `out` is the name that the CSV or the Markdown gets.
    """
    if out.suffix in (".csv", ".md"):
        raise ConfigError(
            f"--out {out}: is the page in HTML, and {out.suffix} is the suffix of a file beside it; give a name such as"
            f" {out.with_suffix('.html')}"
        )
    texts = {out: page, out.with_suffix(".csv"): csv_of(report), out.with_suffix(".md"): markdown}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
