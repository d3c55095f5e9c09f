"""Values of the claims language: numbers (with or without bootstrap samples), unknown numbers, and truth values.

A truth value is True, False or None. None means "cannot be told", because a cell can be blank and an interval can
include zero.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qdit.core.intervals import interval
from qdit.core.run_to_run import Limits, RunToRun, combined
from qdit.report.data.p_values import p_value, partial_conjunction

ZERO = "the interval of the difference includes 0"
SATURATED = "both sides have the same number in every image, so the metric cannot tell them apart"
IMAGES_ALONE = "decided by images alone; not with run-to-run spread"
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Quantity:
    """A number, with its uncertainty if it comes from a run.

    `samples` (B,) are B bootstrap values of the number, moved so that their mean is the number (means over images are
    not moved). Two numbers with equal `pairing` were resampled with the same images. `measured` is true for a number
    from a run, which is uncertain even without samples. `runs` has its value in each replicate; None without
    replicates. `images` is the number of images behind it.
    """

    value: float
    samples: np.ndarray | None = None
    pairing: str = ""
    measured: bool = False
    runs: RunToRun | None = None
    images: int | None = None

    @property
    def limits(self) -> Limits | None:
        """95 % interval from images, and from replicates if there are any; None without resampled values."""
        return None if self.samples is None else combined(self.value, interval(self.samples), self.runs)


@dataclass(frozen=True)
class Unknown:
    """A number that we do not know, and the reason."""

    reason: str


@dataclass(frozen=True)
class Count:
    """The number of true statements in a list. It is between `low` and `high`, because some of them cannot be told."""

    low: int
    high: int
    reasons: tuple[str, ...] = ()
    counted: tuple["Truth", ...] = ()


Value = Quantity | Unknown | Count


@dataclass(frozen=True)
class Evidence:
    """One comparison of a claim: its text with numbers, its outcome, and the interval of the difference if any.

    `gap` is the difference. `limits` is its interval from images and replicates. `images` is the number of images of
    the row that has fewer.
    """

    text: str
    outcome: bool | None
    margin: float = 0.0
    interval: tuple[float, float] | None = None
    reason: str = ""
    no_interval: bool = False
    gap: float | None = None
    limits: Limits | None = None
    images: int | None = None


@dataclass(frozen=True)
class Truth:
    """True, False or None (cannot be told), with the comparisons that decide it, and its p-value.

    The p-value is None if no interval decides, and 1 if the value is None.
    """

    value: bool | None
    evidence: tuple[Evidence, ...] = ()
    p: float | None = None

    @property
    def negated(self) -> "Truth":
        """The truth value of `not` this: True and False are exchanged, None stays."""
        return Truth(None if self.value is None else not self.value, self.evidence, self.p)


def combine(operation: Callable[..., float], *values: Value) -> Value:
    """Apply an operation to numbers and to each of their bootstrap samples; Unknown if a number is unknown."""
    known = [_number(value) for value in values]
    if unknown := [value for value in known if isinstance(value, Unknown)]:
        return unknown[0]
    quantities = [value for value in known if isinstance(value, Quantity)]
    try:
        result = float(operation(*(value.value for value in quantities)))
    except ZeroDivisionError:
        return Unknown("division by zero")
    measured = any(value.measured for value in quantities)
    sampled = [value for value in quantities if value.samples is not None]
    paired = len({value.pairing for value in sampled}) == 1
    whole = all(value.samples is not None or not value.measured for value in quantities)
    if not (sampled and paired and whole):
        return Quantity(result, measured=measured)
    length = len(sampled[0].samples) if sampled[0].samples is not None else 0
    columns = [np.full(length, value.value) if value.samples is None else value.samples for value in quantities]
    try:
        samples, runs = _each(operation, columns), _combined_runs(operation, quantities, length)
    except ZeroDivisionError:
        return Quantity(result, measured=measured)
    images = min((value.images for value in quantities if value.images is not None), default=None)
    return Quantity(result, samples, sampled[0].pairing, measured, runs, images)


def _each(operation: Callable[..., float], columns: Sequence[np.ndarray]) -> np.ndarray:
    """Apply an operation to each row of some columns (n,)."""
    return np.array([operation(*map(float, row)) for row in zip(*columns, strict=True)])


def _combined_runs(operation: Callable[..., float], quantities: Sequence[Quantity], length: int) -> RunToRun | None:
    """Apply an operation to numbers replicate by replicate: replicates of equal number share their calibration draw.

    None if a measured number has no replicates, or if two have different numbers of them. A number without chance
    between runs has one replicate, which stands beside each of the others.
    """
    if any(value.measured and value.runs is None for value in quantities):
        return None
    counts = {value.runs.replicates for value in quantities if value.runs is not None} - {1}
    if len(counts) > 1:
        return None
    replicates = counts.pop() if counts else 1
    values, samples = [], []
    for value in quantities:
        runs = value.runs or RunToRun(np.array([value.value]), np.full((1, length), value.value))
        values.append(np.broadcast_to(runs.values, (replicates,)))
        samples.append(np.broadcast_to(runs.samples, (replicates, length)).ravel())
    return RunToRun(_each(operation, values), _each(operation, samples).reshape(replicates, length))


def _number(value: Value) -> Quantity | Unknown:
    """A count as a number if both its bounds agree; other values unchanged."""
    if not isinstance(value, Count):
        return value
    return Quantity(value.low) if value.low == value.high else Unknown("; ".join(value.reasons))


def compare(symbol: str, left: Value, right: Value, text: str) -> Truth:
    """Evaluate `left symbol right`, for example a < b: by the interval of the difference, or without one by numbers.

    A number of a run is equal to another number if the interval of their difference includes zero. If both sides are
    the same constant in all resamples, for example a score of 1 in every clip, no strict inequality can be told.
    """
    if isinstance(left, Count) or isinstance(right, Count):
        return _compare_counts(symbol, left, right, text)
    gap = combine(operator.sub, left, right)
    if not isinstance(gap, Quantity):
        return Truth(None, (Evidence(text, None, reason=gap.reason if isinstance(gap, Unknown) else ""),))
    outcome, limits, p = COMPARISONS[symbol](round(gap.value, 10), 0), None, None
    margin = _margin(left, right, gap.value)
    if (known := gap.limits) is not None:
        limits = known.ends
        facts: dict[str, Any] = {"gap": gap.value, "limits": known, "images": gap.images}
        if symbol in ("==", "!="):
            outcome = known.includes_zero == (symbol == "==")
        elif known.includes_zero and limits != (0.0, 0.0):
            why = IMAGES_ALONE if known.by_images_alone else ZERO
            return Truth(None, (Evidence(text, None, margin, limits, why, **facts),), 1.0)
        elif symbol in ("<", ">") and limits == (0.0, 0.0) and is_constant(left) and is_constant(right):
            return Truth(None, (Evidence(text, None, margin, limits, SATURATED, **facts),), 1.0)
        p = None if known.includes_zero else p_value(gap.value, limits, known.degrees)
        return Truth(outcome, (Evidence(text, outcome, margin, limits, **facts),), p)
    return Truth(outcome, (Evidence(text, outcome, margin, no_interval=gap.measured),), p)


def is_constant(value: Value) -> bool:
    """Return whether a measured number is the same in all resamples, because it is the same in every image."""
    return isinstance(value, Quantity) and value.samples is not None and bool(np.ptp(value.samples) == 0)


def _margin(left: Value, right: Value, gap: float) -> float:
    """Difference relative to the larger of the two; the closest comparison has the smallest margin."""
    sizes = [abs(side.value) for side in (left, right) if isinstance(side, Quantity)]
    return abs(gap) / max(*sizes, 1e-300)


def _compare_counts(symbol: str, left: Value, right: Value, text: str) -> Truth:
    """Compare counts; the outcome is known if all numbers within their bounds agree."""
    bounds: list[tuple[int, int]] = []
    reasons: list[str] = []
    for side in (left, right):
        if isinstance(side, Unknown):
            return Truth(None, (Evidence(text, None, reason=side.reason),))
        if isinstance(side, Count):
            bounds.append((side.low, side.high))
            reasons += side.reasons
        else:
            bounds.append((int(side.value), int(side.value)))
    answers = {
        COMPARISONS[symbol](a, b)
        for a in range(bounds[0][0], bounds[0][1] + 1)
        for b in range(bounds[1][0], bounds[1][1] + 1)
    }
    if len(answers) > 1:
        return Truth(None, (Evidence(text, None, reason=_shorten(reasons)),))
    outcome = answers.pop()
    return Truth(outcome, (Evidence(text, outcome),), _p_of_counts(symbol, left, right, outcome))


def _p_of_counts(symbol: str, left: Value, right: Value, outcome: bool) -> float | None:
    """p-value of a comparison of counts. The statements with the smallest p-values decide it."""
    sides = [side.counted if isinstance(side, Count) else () for side in (left, right)]
    tested = sorted(
        ((truth.p, n, row) for n, side in enumerate(sides) for row, truth in enumerate(side) if truth.p is not None),
        key=lambda entry: entry[0],
    )
    for needed in range(len(tested) + 1):
        known = {(n, row) for _, n, row in tested[:needed]}
        ranges = [
            _range_of(value, side, n, known) for n, (value, side) in enumerate(zip((left, right), sides, strict=True))
        ]
        if {COMPARISONS[symbol](a, b) for a in ranges[0] for b in ranges[1]} == {outcome}:
            return partial_conjunction([p for p, _, _ in tested], needed) if needed else None
    return 1.0


def _range_of(value: Value, counted: Sequence[Truth], side: int, known: set[tuple[int, int]]) -> range:
    """Possible values of one side of a comparison, if only the `known` ones of its tested statements are decided."""
    if not isinstance(value, Count):
        number = int(value.value) if isinstance(value, Quantity) else 0
        return range(number, number + 1)
    unsure = [truth.p is not None and (side, row) not in known for row, truth in enumerate(counted)]
    low = sum(truth.value is True and not open_one for truth, open_one in zip(counted, unsure, strict=True))
    high = sum(truth.value is not False or open_one for truth, open_one in zip(counted, unsure, strict=True))
    return range(low, high + 1)


def every(truths: Sequence[Truth]) -> Truth:
    """Evaluate `all`: False if one truth is False, else None if one is None, else True."""
    tested = [truth.p for truth in truths if truth.p is not None]
    for outcome in (False, None):
        deciding = [truth for truth in truths if truth.value is outcome]
        if deciding:
            bare = any(truth.p is None for truth in deciding)
            first = min((truth.p for truth in deciding if truth.p is not None), default=1.0)
            p = min(1.0, len(tested) * first) if outcome is False else 1.0
            evidence = tuple(piece for truth in deciding for piece in truth.evidence)
            return Truth(outcome, evidence, None if not tested or (bare and outcome is False) else p)
    return Truth(True, tuple(piece for truth in truths for piece in truth.evidence), max(tested, default=None))


def some(truths: Sequence[Truth]) -> Truth:
    """Evaluate `any`: True if one truth is True, else None if one is None, else False."""
    return every([truth.negated for truth in truths]).negated


def count(truths: Sequence[Truth]) -> Count:
    """Count the true statements, as a range: from those that are true to those that are not false."""
    low = sum(truth.value is True for truth in truths)
    open_ones = [truth for truth in truths if truth.value is None]
    reasons = tuple(dict.fromkeys(piece.reason for truth in open_ones for piece in truth.evidence if piece.reason))
    return Count(low, low + len(open_ones), reasons, tuple(truths))


def _shorten(reasons: Sequence[str]) -> str:
    first = "; ".join(list(dict.fromkeys(reasons))[:2])
    return first + (f" and {len(reasons) - 2} more" if len(reasons) > 2 else "")
