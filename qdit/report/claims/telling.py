"""Estimate what would decide a comparison that cannot be told: more images, more replicates, or fewer bits.

The estimate takes the measured difference as the true difference. The variance from n images falls as 1 / n. The
variance between R replicates falls as 1 / R, and Student's quantile falls with R too. The interval just excludes 0 with

    n' = n (l / d)²                                    for the difference d; l is the length of the interval from
                                                       images between the difference and the end towards 0,
    R' = the smallest R whose interval excludes 0      if images alone decide it already.

If n' is above `MOST_IMAGES`, the difference is too small. Then only fewer bits, which do more damage, would decide.
"""

import math
from collections.abc import Sequence

from qdit.core.run_to_run import Limits, reach
from qdit.report.data.values import Evidence

MOST_IMAGES = 1_000_000
MOST_REPLICATES = 200
DAMAGE = "more damage (fewer bits)"


def what_would_tell(evidence: Sequence[Evidence]) -> str:
    """Write one sentence that says what would decide a claim: numbers of images and replicates, or fewer bits.

    The numbers are those of the undecided comparison that needs the most. The sentence is empty if no comparison is
    undecided because of its interval.
    """
    needs = [need for piece in evidence if (need := needed(piece)) is not None]
    if not needs:
        return ""
    images, replicates, now, runs = max(needs, key=lambda need: (need[0] or math.inf, need[1] or math.inf))
    which = "every open comparison" if len(needs) > 1 else "it"
    if images is None or replicates is None:
        return f"only {DAMAGE} would decide {which}: the difference is too small for any number of images or replicates"
    parts = [f"{images:,} images of each row (now {now:,})"] if images > now else []
    parts += [f"{replicates} replicates (now {runs})"] if replicates > runs else []
    return f"about {' and '.join(parts)} would decide {which}, if the differences stay; or {DAMAGE}" if parts else ""


def needed(piece: Evidence) -> tuple[int | None, int | None, int, int] | None:
    """Return four numbers: images and replicates that would decide an undecided comparison, and the present ones.

    A needed number is None if it would be too large. The result is None for a comparison that is decided, or that is
    undecided for another reason than its interval.
    """
    if piece.outcome is not None or piece.limits is None or piece.gap is None or piece.images is None:
        return None
    limits, gap, now = piece.limits, abs(piece.gap), piece.images
    side = piece.gap - limits.images[0] if piece.gap > 0 else limits.images[1] - piece.gap
    images = more_images(gap, side, now)
    if images is None:
        return None, None, now, limits.replicates
    shrunk = side * math.sqrt(now / max(images, now))
    return images, more_replicates(gap, shrunk, limits), now, limits.replicates


def more_images(gap: float, side: float, images: int) -> int | None:
    """Return the number of images, to two digits, at which the interval from images alone would exclude 0.

    `side` is the interval's length from the difference `gap` towards 0. The result is at least `images`, the current
    number, and None above `MOST_IMAGES`.
    """
    if gap <= 0 or images * (side / gap) ** 2 > MOST_IMAGES:
        return None
    exact = images * (side / gap) ** 2
    return images if exact <= images else rounded_up(exact)


def more_replicates(gap: float, side: float, limits: Limits) -> int | None:
    """Return the number of replicates at which the interval from images and replicates excludes 0.

    None above `MOST_REPLICATES`. `side` is the interval's length from the difference `gap` towards 0, from images
    alone. If `side` is nearly `gap`, no room is left for the variance between runs; then gap / √2 is used in its place.
    """
    if limits.variance == 0:
        return limits.replicates
    of_images = min(side, gap / math.sqrt(2))
    for replicates in range(limits.replicates, MOST_REPLICATES + 1):
        if reach(of_images, limits.variance * limits.replicates / replicates, replicates)[0] < gap:
            return replicates
    return None


def rounded_up(number: float) -> int:
    """Round a number up to two digits: 1,234 becomes 1,300."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return unit * math.ceil(number / unit)
