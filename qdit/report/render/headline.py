"""Write the headline of a page: one sentence that answers the table's question, computed from its rows.

It names the best method at the deciding bits, and its value and interval. It says whether the next method differs by
more than chance, and how well the paper's order holds. If an interval includes 0, it says "cannot be told".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qdit.core.metrics import METRICS
from qdit.core.metrics_record import Status
from qdit.core.ranking import damage_of, ranking_metric, value_text, why_it_ranks
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.rows import Table, is_measured, samples_word
from qdit.report.data.standings import Agreement, Contest, contests, short_name

PREFERRED = "W4A8"
"""Bits that the headline is about where a block has them: the papers' hardest common case."""

NATURAL = "natural"


@dataclass(frozen=True)
class Headline:
    """The headline: `answer` is the sentence in pieces (text, whether it is stressed), `because` are its reasons.

    `contest` holds the rows of the sentence. It is None if the sentence is not about one block.
    """

    answer: tuple[tuple[str, bool], ...]
    because: tuple[str, ...] = ()
    contest: Contest | None = None

    @property
    def text(self) -> str:
        """The sentence as plain text."""
        return "".join(text for text, _ in self.answer)


def headline(table: Table) -> Headline:
    """Return the headline of a table. Without a measured row it says so."""
    contest = deciding(table)
    if not any(is_measured(row) for row in table.rows):
        return Headline((("No row of this table is measured yet.", True),))
    if table.summary:
        return Headline(table.answer or ((table.summary[0], True),), tuple(table.summary[1:]), contest)
    if any("base" in row for row in table.rows):
        return Headline(_variants(table), tuple(_variants_about()), contest)
    if contest is None:
        return Headline((("No quantized row has a number yet: nothing can be compared.", True),))
    return Headline(_answer(contest, printed=bool(table.paper_protocol)), tuple(_because(table, contest)), contest)


def deciding(table: Table) -> Contest | None:
    """Return the rows (one block, equal bits) that the headline is about. None if no quantized row is measured.

    Several rows are preferred to one row. Then these facts decide, in this order: the natural form, printed numbers
    beside the rows, the bits W4A8, the lowest bits of the block. Of equal candidates the first is taken.
    """
    all_contests = [contest for block in table.blocks for contest in contests(block)]
    several = [contest for contest in all_contests if len(contest.rows) > 1] or all_contests
    if not several:
        return None
    preferred = table.decides_at or PREFERRED
    return max(several, key=lambda contest: _weight(contest, preferred))


def _weight(contest: Contest, preferred: str) -> tuple[bool, bool, bool, int]:
    """Sort key of a contest; equal ones stay in order, since `max` takes the first."""
    lowest = min(row["weight_bits"] + row["activation_bits"] for row in contest.block.rows)
    bits = contest.first["weight_bits"] + contest.first["activation_bits"]
    return (
        contest.first["form"] == NATURAL,
        len(contest.printed) > 1,
        contest.bits == preferred,
        int(contest.bits == preferred or bits == lowest),
    )


def progress(table: Table) -> tuple[int, int]:
    """Return the number of measured rows, and the number of rows that should have a result.

    Rows that a page of an unfinished run leaves out count too.
    """
    wanted = [row for row in table.rows if row["state"] != Status.NOT_RUN]
    return sum(map(is_measured, wanted)), len(wanted) + table.waiting


def progress_text(table: Table) -> str:
    """Write `7 of 75 rows so far`. Empty if every row is measured."""
    done, wanted = progress(table)
    return f"{done} of {wanted} rows so far" if done < wanted else ""


def _answer(contest: Contest, *, printed: bool) -> tuple[tuple[str, bool], ...]:
    first, metric = contest.first, ranking_metric()
    if len(contest.rows) == 1:
        return (
            (f"At {contest.bits} ", False),
            (f"{short_name(first)} alone is measured", True),
            (f" ({metric.title} {value_text(first)}): there is nothing to compare it with yet.", False),
        )
    return (
        (f"At {contest.bits}, ", False),
        (f"{short_name(first)} ", True),
        *_lead(contest),
        *_order(contest.agreement(), printed=printed),
    )


def _lead(contest: Contest) -> Iterable[tuple[str, bool]]:
    """`is best (PSNR-FP …), ahead of the next by more than chance`, or that chance can explain its lead."""
    tied, second = [short_name(row) for row in contest.tied], contest.rows[1]
    value = f"({ranking_metric().title} {value_text(contest.first)}{_range(contest.first)})"
    if tied:
        yield "measures best", True
        yield f" {value}, but ", False
        yield f"chance can explain its distance to {_listed(tied)}", True
    else:
        yield "is best", True
        sure = "by more than chance" if contest.has_intervals else "by its number alone, without an interval"
        yield f" {value}, ahead of {short_name(second)} ({value_text(second)}) {sure}", False


def _order(agreement: Agreement | None, *, printed: bool) -> Iterable[tuple[str, bool]]:
    """How far the paper's order holds, or that it prints none here; `printed`: a paper has numbers of such a table."""
    if agreement is None:
        yield "; our copy of the paper has no order of these rows." if printed else ".", False
        return
    same, pairs, turned = agreement.same, agreement.pairs, len(agreement.turned)
    yield ", and ", False
    if same == pairs:
        yield f"the paper’s order of {agreement.methods} methods holds", True
        yield f" (Spearman {agreement.spearman:.2f}).", False
        return
    yield f"the paper’s order holds for {same} of {pairs} pairs", True
    rest = [f"{turned or 'none'} {'are' if turned > 1 else 'is'} reversed"]
    rest += [f"{len(agreement.open)} cannot be told"] if agreement.open else []
    yield f"; {', '.join(rest)} (Spearman {agreement.spearman:.2f}).", False


def _because(table: Table, contest: Contest) -> Iterable[str]:
    """Sentences after the headline: which numbers it uses, and its limits."""
    agreement = contest.agreement()
    count = contest.first.get("images")
    unit = f"{count} {samples_word(contest.rows)}s" if count else "samples"
    yield (
        f"{contest.block.title}, {unit} a row. {ranking_metric().reading}"
        + (" The paper’s order is that of its FID." if agreement else "")
    )
    yield why_it_ranks()
    if agreement and agreement.turned:
        yield f"Reversed: {_pairs(agreement.turned, 'is better here than')}."
    if agreement and agreement.open:
        yield f"Cannot be told: {_pairs(agreement.open, 'against')}."
    if table.miniature:
        yield "A miniature shows whether an order holds there. It cannot show whether a number of the paper is right."


def _pairs(pairs: Sequence[tuple[str, str]], between: str, *, shown: int = 4) -> str:
    """`A against B, C against D and 3 more`: the first pairs, each with the better one here first."""
    more = f" and {len(pairs) - shown} more" if len(pairs) > shown else ""
    return ", ".join(f"{better} {between} {worse}" for better, worse in pairs[:shown]) + more


def _variants(table: Table) -> tuple[tuple[str, bool], ...]:
    """Sentence: how many variants do more damage than their method, and how many do less."""
    more = less = unclear = 0
    for row, base in _beside_base(table):
        gap = difference(row, base, ranking_metric().name)
        if damage_of(row) == damage_of(base) or (gap is not None and gap.is_chance):
            unclear += 1
        elif damage_of(row) > damage_of(base):
            more += 1
        else:
            less += 1
    total = more + less + unclear
    if not total:
        return (("No variant stands beside its method yet: nothing can be compared.", True),)
    return (
        (f"Of {total} variants, ", False),
        (f"{more} do more damage than their method and {less} less", True),
        (f"; {unclear} cannot be told.", False),
    )


def _beside_base(table: Table) -> Iterable[tuple[Row, Row]]:
    """Pairs of a measured variant and the measured base method of its block at the same bits."""
    for block in table.blocks:
        for contest in contests(block):
            base = next((row for row in contest.rows if row["label"] == row["base"]), None)
            if base is not None:
                yield from ((row, base) for row in contest.rows if row is not base)


def _variants_about() -> Iterable[str]:
    yield (
        f"Damage is measured by {ranking_metric().title}. {ranking_metric().reading} “Cannot be told”: the 95 %"
        " interval of the paired difference includes 0."
    )
    yield why_it_ranks()


def interval_words(row: Row, metric: str) -> str:
    """Write the interval of a row, `0.0021 … 0.0030`. Empty without an interval."""
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    if low is None or high is None:
        return ""
    write = METRICS[metric].write
    return f"{write(low)} … {write(high)}".replace("-", "−")


def _range(row: Row) -> str:
    words = interval_words(row, ranking_metric().name)
    return f", 95 % {words}" if words else ""


def _listed(names: Sequence[str]) -> str:
    """`A`, `A or B`, `A, B or C`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
