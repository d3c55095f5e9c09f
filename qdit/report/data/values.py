"""What an expression of a claim can be worth: numbers with or without resampled values, unknown ones, and truths.

A truth has three values, because a cell may be blank and an interval may include zero; `None` is "cannot be told".
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qdit.core.intervals import interval

ZERO = "the interval of the difference includes 0"
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
    """A number. `samples` (B,) are its centred resampled values, paired with those of equal `pairing`.

    `measured` says that it comes from a run; then it has chance in it, whether or not there are samples.
    """

    value: float
    samples: np.ndarray | None = None
    pairing: str = ""
    measured: bool = False


@dataclass(frozen=True)
class Unknown:
    """No number, and why."""

    reason: str


@dataclass(frozen=True)
class Count:
    """How many truths of a list are known to be true, and how many more may be."""

    low: int
    high: int
    reasons: tuple[str, ...] = ()


Value = Quantity | Unknown | Count


@dataclass(frozen=True)
class Evidence:
    """One comparison that was made: its words with numbers, the difference's interval if it has one, its outcome."""

    text: str
    outcome: bool | None
    margin: float = 0.0
    interval: tuple[float, float] | None = None
    reason: str = ""
    no_interval: bool = False


@dataclass(frozen=True)
class Truth:
    """True, False or None (cannot be told), and the comparisons that made it so."""

    value: bool | None
    evidence: tuple[Evidence, ...] = ()

    @property
    def negated(self) -> "Truth":
        """`not`."""
        return Truth(None if self.value is None else not self.value, self.evidence)


def combine(operation: Callable[..., float], *parts: Value) -> Value:
    """Arithmetic on numbers and, elementwise, on their resampled values; anything unknown makes the result so."""
    known = [_number(part) for part in parts]
    if unknown := [part for part in known if isinstance(part, Unknown)]:
        return unknown[0]
    quantities = [part for part in known if isinstance(part, Quantity)]
    try:
        value = float(operation(*(part.value for part in quantities)))
    except ZeroDivisionError:
        return Unknown("division by zero")
    measured = any(part.measured for part in quantities)
    sampled = [part for part in quantities if part.samples is not None]
    paired = len({part.pairing for part in sampled}) == 1
    whole = all(part.samples is not None or not part.measured for part in quantities)
    if not (sampled and paired and whole):
        return Quantity(value, measured=measured)
    length = len(sampled[0].samples) if sampled[0].samples is not None else 0
    columns = [np.full(length, part.value) if part.samples is None else part.samples for part in quantities]
    try:
        rows = [operation(*map(float, row)) for row in zip(*columns, strict=True)]
    except ZeroDivisionError:
        return Quantity(value, measured=measured)
    return Quantity(value, np.array(rows), sampled[0].pairing, measured)


def _number(part: Value) -> Quantity | Unknown:
    """A count as a number, if it is known."""
    if not isinstance(part, Count):
        return part
    return Quantity(part.low) if part.low == part.high else Unknown("; ".join(part.reasons))


def compare(symbol: str, left: Value, right: Value, text: str) -> Truth:
    """`left symbol right`: by the interval of the difference where there is one, else by the numbers themselves.

    Numbers of a run are equal to something if the interval of their difference includes zero.
    """
    if isinstance(left, Count) or isinstance(right, Count):
        return _compare_counts(symbol, left, right, text)
    gap = combine(operator.sub, left, right)
    if not isinstance(gap, Quantity):
        return Truth(None, (Evidence(text, None, reason=gap.reason if isinstance(gap, Unknown) else ""),))
    outcome, limits = COMPARISONS[symbol](round(gap.value, 10), 0), None
    if gap.samples is not None:
        limits = interval(gap.samples)
        if symbol in ("==", "!="):
            outcome = (limits[0] <= 0 <= limits[1]) == (symbol == "==")
        elif limits[0] <= 0 <= limits[1] and limits != (0.0, 0.0):
            return Truth(None, (Evidence(text, None, _margin(left, right, gap.value), limits, ZERO),))
    bare = gap.measured and limits is None
    return Truth(outcome, (Evidence(text, outcome, _margin(left, right, gap.value), limits, no_interval=bare),))


def _margin(left: Value, right: Value, gap: float) -> float:
    """Difference relative to the larger of the two: which of several comparisons was the closest."""
    sizes = [abs(part.value) for part in (left, right) if isinstance(part, Quantity)]
    return abs(gap) / max(*sizes, 1e-300)


def _compare_counts(symbol: str, left: Value, right: Value, text: str) -> Truth:
    """Known if every number that the counts may still become gives the same answer."""
    bounds: list[tuple[int, int]] = []
    reasons: list[str] = []
    for part in (left, right):
        if isinstance(part, Unknown):
            return Truth(None, (Evidence(text, None, reason=part.reason),))
        if isinstance(part, Count):
            bounds.append((part.low, part.high))
            reasons += part.reasons
        else:
            bounds.append((int(part.value), int(part.value)))
    answers = {
        COMPARISONS[symbol](a, b)
        for a in range(bounds[0][0], bounds[0][1] + 1)
        for b in range(bounds[1][0], bounds[1][1] + 1)
    }
    if len(answers) > 1:
        return Truth(None, (Evidence(text, None, reason=_shorten(reasons)),))
    outcome = answers.pop()
    return Truth(outcome, (Evidence(text, outcome),))


def every(truths: Sequence[Truth]) -> Truth:
    """`all`: one that is false decides; without one, one that cannot be told leaves it open."""
    for outcome in (False, None):
        deciding = [truth for truth in truths if truth.value is outcome]
        if deciding:
            return Truth(outcome, tuple(piece for truth in deciding for piece in truth.evidence))
    return Truth(True, tuple(piece for truth in truths for piece in truth.evidence))


def some(truths: Sequence[Truth]) -> Truth:
    """`any`: the mirror image of `every`."""
    return every([truth.negated for truth in truths]).negated


def count(truths: Sequence[Truth]) -> Count:
    """How many are true."""
    low = sum(truth.value is True for truth in truths)
    open_ones = [truth for truth in truths if truth.value is None]
    reasons = tuple(dict.fromkeys(piece.reason for truth in open_ones for piece in truth.evidence if piece.reason))
    return Count(low, low + len(open_ones), reasons)


def _shorten(reasons: Sequence[str]) -> str:
    first = "; ".join(list(dict.fromkeys(reasons))[:2])
    return first + (f" and {len(reasons) - 2} more" if len(reasons) > 2 else "")
