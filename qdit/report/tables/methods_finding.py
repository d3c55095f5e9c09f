"""Write the first sentence of a table of methods: which method is best, by how much, and whether that can be chance."""

from collections.abc import Iterable

from qdit.core.metrics import METRICS, ranking_metric, significant
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import Row
from qdit.report.data.standings import Contest, short_name
from qdit.report.render.headline import interval_words, value_text

PEAK = "psnr_fp"
LARGEST_RATIO = 1000.0


def finding(contest: Contest) -> tuple[tuple[str, bool], ...]:
    """Write the sentence in pieces (text, whether it is stressed). Empty with fewer than two rows."""
    if len(contest.rows) < 2:
        return ()
    first, second = contest.rows[:2]
    metric = ranking_metric()
    words = interval_words(first, metric.name)
    interval = f", 95 % {words}" if words else ""
    return (
        (f"At {contest.bits} in the {first['form']} form, ", False),
        (f"{_verdict(contest)} {short_name(first)}", True),
        (
            f" ({metric.title} {value_text(first)}{interval}): {metric.title} of the next, {short_name(second)}, is"
            f" {_ratio(first, second)}{_peak(first, second)}; ",
            False,
        ),
        (f"{_chance(contest)}.", True),
    )


def _verdict(contest: Contest) -> str:
    """The winner, in words. There is none if the difference can be chance, or if there is no interval."""
    gap = difference(contest.rows[1], contest.first, ranking_metric().name)
    if gap is None or gap.interval is None:
        return "the lowest number is that of"
    return "no method wins; the lowest number is that of" if contest.tied else "the winner is"


def _ratio(first: Row, second: Row) -> str:
    """Text: how many times as large the second FD-FP is."""
    low, high = (float(row[ranking_metric().name]) for row in (first, second))
    if low <= 0:
        return "larger" if high > 0 else "equal"
    ratio = high / low
    return f"{ratio:.2f} times as large" if ratio < LARGEST_RATIO else f"{significant(ratio)} times as large"


def _peak(first: Row, second: Row) -> str:
    """The difference of the PSNR, first − second."""
    gap = difference(first, second, PEAK)
    if gap is None:
        return ""
    title, amount = METRICS[PEAK].title, METRICS[PEAK].write(abs(gap.value))
    if float(amount) == 0:
        return f", its {title} is equal"
    return f", its {title} {amount} dB {'lower' if gap.value > 0 else 'higher'}"


def _chance(contest: Contest) -> str:
    """Sentence about the interval of the paired difference: for this pair alone, and with Holm's correction."""
    first, second = contest.rows[:2]
    gap = difference(second, first, ranking_metric().name)
    if gap is None or gap.interval is None:
        return "the difference has no interval, so it may be chance"
    low, high = (significant(value).replace("-", "−") for value in gap.interval)
    words = f"the 95 % interval of the paired difference ({low} … {high})"
    if gap.is_chance:
        return f"{words} includes 0, so it may be chance"
    if contest.separation.apart(second, first):
        return f"{words} excludes chance, also with Holm’s control over {contest.separation.comparisons} pairs"
    return (
        f"{words} excludes 0, but with Holm’s control over {contest.separation.comparisons} pairs the difference may be"
        " chance"
    )


def tied_text(contest: Contest) -> str:
    """Name all methods whose difference to the first can be chance. Empty if there are none."""
    names = [short_name(row) for row in contest.tied]
    return f"Chance can explain the distance to {short_name(contest.first)} for: {', '.join(names)}." if names else ""


def facts(contest: Contest, *, miniature: bool) -> Iterable[str]:
    """Write the sentences below the first: rows that chance cannot separate, number of images, the metric."""
    if text := tied_text(contest):
        yield text
    metric = ranking_metric().title
    images = f"{contest.first['images']} images a row" if contest.first.get("images") else "few samples"
    yield (
        f"{contest.block.title}, {images}. {metric} is the distance to the full-precision samples of the same noise"
        " (smaller is better)."
    )
    if miniature:
        yield "A miniature shows whether an order holds there. It cannot show whether a number of the paper is right."
