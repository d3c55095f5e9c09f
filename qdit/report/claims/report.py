"""Judge all claims, and write the verdicts as text for a terminal and as CSV."""

import csv
import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdit.core.files import write_text
from qdit.core.run import UNQUANTIZED
from qdit.report.claims.claims import (
    CONSTRUCTED,
    FAILS,
    FILE,
    HOLDS,
    NOT_CHECKED,
    OPEN,
    Claim,
    Claims,
    Verdict,
    judge_all,
    judge_all_at_damage,
    load_claims,
)
from qdit.report.claims.damage import BITS
from qdit.report.claims.sources import Measured, Printed
from qdit.report.claims.survival import Comparison, of_folders, of_replicates, profile_in, survival_text
from qdit.report.data.published import REPOSITORY_COPY, published_folder
from qdit.report.data.values import Evidence

PRINTED = "printed"
PAPER_PROFILE = "paper"
SHOWN = 12
"""Number of comparisons shown for each verdict; the CSV has their total number."""

ORDER = (HOLDS, FAILS, OPEN, CONSTRUCTED, NOT_CHECKED)
COLUMNS = (
    *("id", "kind", "source", "place", "words", "reading", "table", "form"),
    *("evaluated_on", "verdict", "why", "metrics", "comparisons", "closest", "low", "high", "p_value", "alone"),
    "would_tell",
    *("profile", "face", "runs_compared", "runs_agreeing"),
)


@dataclass(frozen=True)
class Report:
    """All claims, and `verdicts`: source of numbers (`printed`, a profile, …) → claim id → verdict."""

    claims: Claims
    verdicts: Mapping[str, Mapping[str, Verdict]]
    profile: str
    face: str
    miniature: bool
    remarks: tuple[str, ...] = ()
    survival: tuple[Comparison, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    """Setting → its model, of all runs."""

    @property
    def at_papers_bits(self) -> list[str]:
        """Names of the sources that judge at the papers' bits. Only their verdicts count as verdicts on a paper."""
        return [source for source in self.verdicts if source != damaged_name(self.profile)]


def damaged_name(profile: str) -> str:
    """Return the name of the source with the rows of a profile where damage begins, for example `mini at W4A4`."""
    return f"{profile} at {BITS.upper()}"


def load_report(profile: Mapping[str, Any], results: Path, others: Sequence[Path] = ()) -> Report:
    """Judge all claims: on the printed numbers, on the results of a profile, and on the results of the profile `paper`.

    The results of the profile `paper` are in the folder `paper` beside `results`. They are used if the folder has a
    profile.json. A miniature is also judged at W4A4, where damage begins. `others` are results of the profile with
    other seeds. Their verdicts, and the verdicts of replicates, are compared with the verdicts on `results`.
    """
    published = published_folder(results)
    beside = published / FILE
    claims = load_claims(beside if beside.is_file() else REPOSITORY_COPY / FILE)
    measured = Measured(profile, results)
    sources: dict[str, Printed | Measured] = {PRINTED: Printed(published), str(profile["profile"]): measured}
    paper = results.parent / PAPER_PROFILE
    if profile["profile"] != PAPER_PROFILE and (paper / "profile.json").is_file():
        sources[PAPER_PROFILE] = Measured(profile_in(paper), paper)
    verdicts: dict[str, Mapping[str, Verdict]] = {}
    for name, source in sources.items():
        verdicts[name] = judge_all(claims, source)
        if source is measured and measured.miniature:
            verdicts[damaged_name(name)] = judge_all_at_damage(claims, measured)
    verdicts_of_run = verdicts[str(profile["profile"])]
    return Report(
        claims,
        verdicts,
        str(profile["profile"]),
        str(profile["face"]),
        measured.miniature,
        tuple(measured.remarks),
        (*of_replicates(claims, measured, verdicts_of_run), *of_folders(claims, verdicts_of_run, others)),
        {
            name: str(setting["model"])
            for source in sources.values()
            if isinstance(source, Measured)
            for name, setting in source.profile["settings"].items()
        },
    )


def counts(report: Report, source: str) -> dict[str, int]:
    """Return verdict → number of claims with this verdict on one source, in the order of the page, without zeros."""
    words = Counter(verdict.word for verdict in report.verdicts[source].values())
    return {word: words[word] for word in ORDER if words[word]}


def sentence(report: Report, source: str) -> str:
    """Write a sentence: `On the papers’ own numbers, 31 claims hold, 6 do not hold, 8 cannot be told.`"""
    return f"On {where_of(report, source)}, {verdicts_in_words(report, source)}."


def where_of(report: Report, source: str) -> str:
    """Write what a source is: `the papers’ own numbers`, or a run with the bits and models that were read."""
    if source == PRINTED:
        return "the papers’ own numbers"
    runs = dict.fromkeys(run for verdict in report.verdicts[source].values() for run in verdict.runs)
    quantized = sorted({run.bits.upper() for run in runs if run.bits != UNQUANTIZED}, key=_bits_order)
    models = ", ".join(sorted({report.models[run.setting] for run in runs}))
    read = f" ({', '.join(quantized)}; {models})" if quantized else ""
    if source == damaged_name(report.profile):
        return f"the runs of profile {source}, which are not the papers’ bits{read}"
    return f"the runs of profile {source} at the papers’ bits{read}"


def _bits_order(bits: str) -> tuple[int, ...]:
    return tuple(-int(number) for number in re.findall(r"\d+", bits))


def verdicts_in_words(report: Report, source: str) -> str:
    """Write how many claims have each verdict: `31 claims hold, 6 do not hold, 8 cannot be told`."""
    (first, number), *others = counts(report, source).items()
    said = [f"{number} {'claim' if number == 1 else 'claims'} {_plural(first, number)}"]
    return ", ".join([*said, *(f"{count} {_plural(word, count)}" for word, count in others)])


def summary(report: Report) -> list[str]:
    """Write the sentences above the list of claims.

    They count the verdicts of each source, name the effect of the correction for many claims, and say whether verdicts
    stay the same with other random draws.
    """
    controls = (control(report, source) for source in report.verdicts if source != PRINTED)
    verdicts_of_run = report.verdicts[report.profile]
    return [
        *(sentence(report, source) for source in report.verdicts),
        *told_by_damage(report),
        *filter(None, controls),
        *survival_text(report.survival, verdicts_of_run),
    ]


def told_by_damage(report: Report) -> list[str]:
    """Write a sentence: how many claims cannot be told at the papers' bits but are decided at W4A4; [] without W4A4."""
    damaged = report.verdicts.get(damaged_name(report.profile))
    if damaged is None:
        return []
    open_ones = [claim for claim, verdict in report.verdicts[report.profile].items() if verdict.word == OPEN]
    told = [claim for claim in open_ones if damaged[claim].word in (HOLDS, FAILS)]
    return [
        f"Of the {len(open_ones)} claims that cannot be told at the papers’ bits, {len(told)}"
        f" {'is' if len(told) == 1 else 'are'} decided at {BITS.upper()}; these verdicts do not count as the paper’s."
    ]


def control(report: Report, source: str) -> str:
    """Write how many verdicts of a source have a p-value, and how many the correction for many claims changes.

    The text is empty if no verdict has a p-value.
    """
    verdicts = report.verdicts[source].values()
    tested, changed = sum(v.p is not None for v in verdicts), [v for v in verdicts if v.alone]
    if not tested:
        return ""
    what = f"{len(changed)} {'verdict becomes' if len(changed) == 1 else 'verdicts become'} “{OPEN}”"
    return (
        f"{tested} claims are compared on the runs of profile {source}; of the decided ones at most 5 % are expected to"
        f" be wrong by chance (Benjamini–Hochberg); {what if changed else 'no verdict changes'} by this control."
    )


def _plural(word: str, count: int) -> str:
    """The verdict as a verb: 1 holds, 2 hold, 1 does not hold, 2 do not hold, 1 was not checked."""
    if word == HOLDS:
        return "holds" if count == 1 else "hold"
    if word == FAILS:
        return "does not hold" if count == 1 else "do not hold"
    if word == CONSTRUCTED:
        return "comes out by construction" if count == 1 else "come out by construction"
    return f"{'was' if count == 1 else 'were'} {word}" if word == NOT_CHECKED else word


def text_of(report: Report, *, width: int = 110) -> str:
    """Write all claims for a terminal: the words of each claim, then the verdict and numbers of each source."""
    lines = [report.face, ""]
    for claim in report.claims.claims:
        lines += textwrap.wrap(f"{claim.id}: “{claim.words}” ({claim.source}, {claim.place})", width)
        if claim.reading:
            lines += textwrap.wrap(f"read as: {claim.reading}", width, initial_indent="  ", subsequent_indent="    ")
        for name, verdicts in report.verdicts.items():
            verdict = verdicts[claim.id]
            about = "; ".join(filter(None, (verdict.why, *map(evidence_text, verdict.evidence[:1]))))
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


def _survived(claim: Claim, source: str, report: Report) -> tuple[int, int] | tuple[str, str]:
    """Number of other runs that a verdict was compared with, and of those with the same verdict; blank for none."""
    pairs = [of.words[claim.id] for of in report.survival if claim.id in of.words and source == report.profile]
    return (len(pairs), sum(before == after for before, after in pairs)) if pairs else ("", "")


def write_report(report: Report, page: str, markdown: str, out: Path) -> list[Path]:
    """Write the HTML `page` to `out`, and the CSV and the `markdown` beside it; equal results give equal bytes."""
    texts = {out: page, out.with_suffix(".csv"): csv_of(report), out.with_suffix(".md"): markdown}
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)
