"""Write the findings at the top of a report, as sentences. Every number in them is counted from the rows of the run."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdit.core.ranking import ranking_metric
from qdit.report.claims.claims import CONSTRUCTED, FAILS, HOLDS, OPEN, Claim
from qdit.report.claims.report import PRINTED, Report
from qdit.report.claims.summary import where_of
from qdit.report.data.rows import Table, is_measured, is_missing
from qdit.report.pages.pairs import Ranking
from qdit.report.tables.qc import CONTROLS

LEAST_HEADINGS = ("Table", "Bits", "Least damage", "In settings", "Of them by more than chance")
CHECKED = (HOLDS, FAILS, OPEN, CONSTRUCTED)


@dataclass(frozen=True)
class Finding:
    """A sentence for the top of a report, and the claims that it is about."""

    text: str
    claims: tuple[Claim, ...] = ()


def findings(
    report: Report, board: Table, ranked: Mapping[str, Sequence[Ranking]], control: Table | None
) -> list[Finding]:
    """Return the findings of a report: about the claims, the rankings of the tables, and the quality control.

    `ranked` is title of a table → its rankings. `control` is the table of the quality control.
    """
    listed = [_printed(report), *_run(report)]
    listed.append(_pairs([ranking for rankings in ranked.values() for ranking in rankings]))
    if control is not None:
        listed += [Finding(f"Quality control: {text}") for text in control.summary if text != CONTROLS]
    return [finding for finding in [*listed, _complete(board)] if finding.text]


def _claims(report: Report, source: str, word: str) -> tuple[Claim, ...]:
    return tuple(claim for claim in report.claims.claims if report.verdicts[source][claim.id].word == word)


def _printed(report: Report) -> Finding:
    words = Counter(verdict.word for verdict in report.verdicts[PRINTED].values())
    checked = sum(words[word] for word in CHECKED)
    return Finding(
        f"The papers’ own tables support {words[HOLDS]} of the {checked} claims that can be checked with them;"
        f" {words[OPEN]} cannot be told with the known cells, and {words[FAILS]} do not hold"
        + (":" if words[FAILS] else "."),
        _claims(report, PRINTED, FAILS),
    )


def _run(report: Report) -> list[Finding]:
    """A finding for each run: how many claims hold, and which fail although they hold for the printed numbers."""
    listed = []
    for source, verdicts in report.verdicts.items():
        if source == PRINTED:
            continue
        words = Counter(verdict.word for verdict in verdicts.values())
        measured = "by more than chance where the runs have intervals"
        text = f"On {where_of(report, source)}, {words[HOLDS]} claims hold and {words[FAILS]} do not ({measured});"
        text += f" {words[OPEN]} cannot be told"
        text += f", and {words[CONSTRUCTED]} come out by construction." if words[CONSTRUCTED] else "."
        is_papers = source in report.at_papers_bits
        printed = {claim.id for claim in _claims(report, PRINTED, HOLDS)} if is_papers else set()
        against = tuple(claim for claim in _claims(report, source, FAILS) if claim.id in printed)
        listed.append(Finding(text + (" These hold for the printed numbers but not here:" if against else ""), against))
    return listed


def short_title(table: Table) -> str:
    """Return the text in parentheses at the end of a title, such as `Q-DiT, Table 2`; else the whole title."""
    match = re.search(r"\(([^()]+)\)$", table.title)
    return match[1] if match else table.title


def least_damage(title: str, rankings: Sequence[Ranking]) -> list[tuple[str, ...]]:
    """Return rows of a small table: for each bits, the method with the least damage in most settings (natural form)."""
    rows: list[tuple[str, ...]] = []
    natural = [ranking for ranking in rankings if ranking.ranked[0].row["form"] == "natural"]
    for bits in dict.fromkeys(ranking.bits for ranking in natural):
        same = [ranking for ranking in natural if ranking.bits == bits]
        firsts = Counter(ranking.ranked[0].name for ranking in same)
        certain = Counter(ranking.ranked[0].name for ranking in same if ranking.first_is_certain)
        names, count = [name for name, n in firsts.items() if n == max(firsts.values())], max(firsts.values())
        chance = sum(certain[name] for name in names)
        rows.append((title, bits, ", ".join(names), f"{count} of {len(same)}", f"{chance}"))
    return rows


def _pairs(rankings: Sequence[Ranking]) -> Finding:
    total, certain = sum(ranking.pairs for ranking in rankings), sum(ranking.certain for ranking in rankings)
    if not total:
        return Finding("")
    return Finding(
        f"Of {total} pairs of methods at equal bits and setting, {certain} differ in {ranking_metric().title} by more"
        f" than chance. The order of the other {total - certain} may be chance."
    )


def _complete(board: Table) -> Finding:
    rows = board.rows
    missing = [row for row in rows if is_missing(row)]
    done = sum(map(is_measured, rows))
    if not missing:
        return Finding(f"All {len(rows)} runs of this profile were measured.")
    why = Counter(str(row["status"]) for row in missing)
    reasons = "; ".join(f"{count} {reason}" for reason, count in why.most_common(3))
    return Finding(f"This run is partial: {done} of {len(rows)} runs were measured ({reasons}).")
