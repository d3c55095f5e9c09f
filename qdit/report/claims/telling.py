"""What would decide a comparison that cannot be told: more images, more replicates, or fewer bits.

The estimate takes the measured difference as the true one. The variance that images cause falls as 1 / n. That of runs
falls as 1 / R, and Student's quantile falls with it. So the interval just excludes 0 with

    n' = n (l / d)²                                    for the difference d and the side l of the images' interval,
    R' = the smallest R whose interval excludes 0      if images alone decide it already.

A difference that needs more than `MOST_IMAGES` is too small. Then only fewer bits, with more damage, would decide.
"""

import math
from collections.abc import Sequence

from qdit.core.run_to_run import Limits, reach
from qdit.report.data.values import Evidence

MOST_IMAGES = 1_000_000
MOST_REPLICATES = 200
DAMAGE = "more damage (fewer bits)"


def what_would_tell(evidence: Sequence[Evidence]) -> str:
    """One sentence about the comparisons that are not decided; empty if none of them has an interval that could shrink.

    It names the numbers of images and replicates of the comparison that needs the most.
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
    """(images, replicates) that would decide an open comparison, then its current numbers; None in place of too many.

    None for a comparison that is decided, or that is open for another reason than its interval.
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
    """Number of images (two digits) at which the interval from images excludes 0; at least the current number."""
    if gap <= 0 or images * (side / gap) ** 2 > MOST_IMAGES:
        return None
    exact = images * (side / gap) ** 2
    return images if exact <= images else rounded_up(exact)


def more_replicates(gap: float, side: float, limits: Limits) -> int | None:
    """Number of replicates at which the interval from images and replicates excludes 0; None above `MOST_REPLICATES`.

    If the interval from images alone just excludes 0, it leaves no room for the variance between runs. Then the
    function takes half of its width.
    """
    if limits.variance == 0:
        return limits.replicates
    of_images = min(side, gap / math.sqrt(2))
    for replicates in range(limits.replicates, MOST_REPLICATES + 1):
        if reach(of_images, limits.variance * limits.replicates / replicates, replicates)[0] < gap:
            return replicates
    return None


def rounded_up(number: float) -> int:
    """A number rounded up to two digits: 1,234 is 1,300."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1)
    return unit * math.ceil(number / unit)
