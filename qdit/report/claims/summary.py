"""Write the sentences above the list of claims: what was decided, by which rows, and how often it stays."""

import re
from collections import Counter
from dataclasses import dataclass

from qdit.core.run import UNQUANTIZED
from qdit.report.claims.claims import (
    BY_CONSTRUCTION,
    CONSTRUCTED,
    FAILS,
    HOLDS,
    NOT_CHECKED,
    NUMERIC,
    OPEN,
    Verdict,
)
from qdit.report.claims.damage import BITS
from qdit.report.claims.report import PRINTED, Report, damaged_name
from qdit.report.claims.survival import DECIDED, agreement, survival_text

ORDER = (HOLDS, FAILS, OPEN, CONSTRUCTED, NOT_CHECKED)


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

    First come `first_sentences`. Then the sentences count the verdicts of each source, name the effect of the
    correction for many claims, and say which verdicts change with other random draws.
    """
    return [*first_sentences(report), *(sentence(report, source) for source in report.verdicts), *details(report)]


def details(report: Report) -> list[str]:
    """Write the sentences on the correction for many claims, and on other random draws, of each source."""
    controls = (control(report, source) for source in report.verdicts if source != PRINTED)
    said = [
        line
        for source, comparisons in report.survival.items()
        for line in survival_text(comparisons, report.verdicts[source], _at_bits(report, source))
    ]
    return [*filter(None, controls), *said]


def _at_bits(report: Report, source: str) -> str:
    return f"at {BITS.upper()}" if source == damaged_name(report.profile) else "at the papers’ bits"


@dataclass(frozen=True)
class Standing:
    """Claim ids by what a run says of them; each claim that can be checked is in one of the lists.

    `constructed` are about rows that were used to choose the salient form, decided or not. `at_papers_bits` and
    `at_damage` are decided; the latter only at W4A4. `numbers` are about the paper's own model.
    `lacking` cannot be told and read rows that are not made. `open` cannot be told for another reason.
    """

    constructed: tuple[str, ...]
    at_papers_bits: tuple[str, ...]
    at_damage: tuple[str, ...]
    numbers: tuple[str, ...]
    lacking: tuple[str, ...]
    open: tuple[str, ...]

    @property
    def checked(self) -> int:
        """Number of all claims that can be checked."""
        return sum(map(len, vars(self).values()))

    @property
    def undecided(self) -> int:
        """Number of claims that cannot be told."""
        return len(self.numbers) + len(self.lacking) + len(self.open)


def standing(report: Report) -> Standing:
    """Sort the claims by what the run of the report's profile says of them."""
    papers = report.verdicts[report.profile]
    damaged = report.verdicts.get(damaged_name(report.profile), {})
    lists: dict[str, list[str]] = {name: [] for name in Standing.__dataclass_fields__}
    for claim in report.claims.claims:
        verdict, other = papers[claim.id], damaged.get(claim.id, Verdict(NOT_CHECKED))
        if verdict.word == NOT_CHECKED:
            continue
        if verdict.word == CONSTRUCTED or claim.kind == BY_CONSTRUCTION:
            name = "constructed"
        elif verdict.word in DECIDED:
            name = "at_papers_bits"
        elif other.word in DECIDED:
            name = "at_damage"
        elif report.miniature and claim.kind == NUMERIC and not claim.miniature:
            name = "numbers"
        else:
            name = "lacking" if verdict.missing or other.missing else "open"
        lists[name].append(claim.id)
    return Standing(**{name: tuple(ids) for name, ids in lists.items()})


def first_sentences(report: Report) -> list[str]:
    """Write the first sentences of every page about claims: how many claims are decided, and how many verdicts stay."""
    state = standing(report)
    checkable = f"{state.checked} of the {len(report.claims.claims)} claims can be checked; the others are only quoted."
    if state.constructed:
        count = len(state.constructed)
        verb = "is" if count == 1 else "are"
        checkable += f" {count} of the {state.checked} {verb} by construction, which is no evidence."
    rest = state.checked - len(state.constructed)
    where = " at the papers’ bits" if report.miniature else ""
    decided = f"Of the {'other ' if state.constructed else ''}{rest} claims, the runs of profile {report.profile}"
    decided += _means(report)
    decided += f" decide {len(state.at_papers_bits)}{where}{_split(report, report.profile, state.at_papers_bits)}"
    if report.miniature:
        damaged = damaged_name(report.profile)
        decided += f" and {len(state.at_damage)} more only at {BITS.upper()}{_split(report, damaged, state.at_damage)}"
    decided += f"; {state.undecided} cannot be told."
    if report.miniature:
        decided += f" A verdict at {BITS.upper()} is not a verdict on the paper."
    return [*filter(None, (checkable, decided, _why_undecided(report, state), _stay(report, state)))]


def _means(report: Report) -> str:
    """` (means over the seeds 0, 1, 2)`; empty if one run is judged."""
    return f" (means over the seeds {', '.join(map(str, report.seeds))})" if report.seeds else ""


def _split(report: Report, source: str, claims: tuple[str, ...]) -> str:
    """` (17 hold, 8 do not hold)`; empty without claims."""
    words = Counter(report.verdicts[source][claim].word for claim in claims)
    said = [f"{words[word]} {_plural(word, words[word])}" for word in DECIDED if words[word]]
    return f" ({', '.join(said)})" if said else ""


def _why_undecided(report: Report, state: Standing) -> str:
    makes = f"“{report.command}” makes" if report.command else "they read"
    reasons = {
        "about a number of the paper’s own model, which no miniature can measure": len(state.numbers),
        f"without rows that {makes}": len(state.lacking),
        "open because a difference can be chance, or for a reason that the list below gives": len(state.open),
    }
    said = [f"{count} {'is' if count == 1 else 'are'} {reason}" for reason, count in reasons.items() if count]
    return f"Of the {state.undecided} claims that cannot be told, {'; '.join(said)}." if said else ""


def _stay(report: Report, state: Standing) -> str:
    """How many of the decided claims were judged again with other draws, and how many verdicts stayed every time.

    Empty if there are no other draws.
    """
    sources = dict.fromkeys(state.at_papers_bits, report.profile)
    sources |= dict.fromkeys(state.at_damage, damaged_name(report.profile))
    counted = [agreement(report.survival.get(source, ()), claim) for claim, source in sources.items()]
    again = [count for count in counted if count.compared]
    if not again:
        return ""
    least, most = min(count.compared for count in again), max(count.compared for count in again)
    draws = f"{most}" if least == most else f"{least} to {most}"
    how = f"with {draws} other random {'draw' if most == 1 else 'draws'} (seeds or replicates)"
    how = f"on {draws} of the runs alone" if report.seeds else how
    stay = sum(count.agreeing == count.compared for count in again)
    lacking = sum(count.lacking > 0 for count in counted)
    text = (
        f"{len(again)} of the {len(sources)} decided claims were judged again {how}; {stay} of them"
        f" {'keeps its' if stay == 1 else 'keep their'} verdict every time."
    )
    if not lacking:
        return text
    return f"{text} {lacking} could not be compared with every run, because rows or numbers are missing there."


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
