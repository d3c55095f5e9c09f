"""What would tell an open comparison: the estimate tells it, and a little less does not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.run_to_run import NORMAL, RunToRun, combined, reach
from qdit.report.claims.telling import MOST_IMAGES, more_images, needed, rounded_up, what_would_tell
from qdit.report.data.values import ZERO, Evidence


def piece(gap: float, side: float, *, images: int = 512, runs: list[float] | None = None) -> Evidence:
    """An open comparison: its difference, the side of its images' interval, and its values in each replicate."""
    spread = None
    if runs is not None:
        values = gap + np.array(runs) - np.mean(runs)
        spread = RunToRun(values, np.repeat(values[:, None], 20, axis=1))
    limits = combined(gap, (gap - side, gap + side), spread)
    return Evidence("a < b", None, 0.1, limits.ends, ZERO, gap=gap, limits=limits, images=images)


def test_four_times_the_images_halve_an_interval() -> None:
    assert needed(piece(1.0, 2.0)) == (rounded_up(2048), 1, 512, 1)
    assert needed(piece(-1.0, 2.0)) == needed(piece(1.0, 2.0)), "the end towards 0 counts"
    assert what_would_tell([piece(1.0, 2.0)]) == (
        "about 2,100 images of each row (now 512) would decide it, if the differences stay; or more damage (fewer bits)"
    )


def test_the_hardest_comparison_decides_and_a_hopeless_one_needs_damage() -> None:
    text = what_would_tell([piece(1.0, 2.0), piece(1.0, 3.0), Evidence("c", True)])
    assert text.startswith("about 4,700 images") and "every open comparison" in text
    for gap in (0.0, 1e-9):
        assert what_would_tell([piece(1.0, 2.0), piece(gap, 2.0)]).startswith("only more damage (fewer bits)")
    assert what_would_tell([Evidence("missing", None, reason="no such row")]) == ""


def test_where_images_tell_and_runs_do_not_replicates_are_needed() -> None:
    open_one = piece(1.0, 0.5, runs=[-0.5, 0.0, 0.5])
    assert open_one.limits is not None and open_one.limits.by_images_alone
    images, replicates, now, runs = needed(open_one) or (0, 0, 0, 0)
    assert (images, now, runs) == (512, 512, 3) and replicates is not None and replicates > 3
    variance = open_one.limits.variance
    assert (
        reach(0.5, variance * 3 / replicates, replicates)[0]
        < 1
        <= reach(0.5, variance * 3 / (replicates - 1), replicates - 1)[0]
    )
    assert f"about {replicates} replicates (now 3) would decide it" in what_would_tell([open_one])


@settings(deadline=None)
@given(gap=st.floats(0.01, 10), factor=st.floats(1.01, 40), images=st.integers(16, 4096))
def test_the_number_of_images_just_excludes_zero(gap: float, factor: float, images: int) -> None:
    number = more_images(gap, factor * gap, images)
    if number is None:
        assert images * factor**2 > 0.99 * MOST_IMAGES
        return
    assert factor * gap * math.sqrt(images / number) <= gap * (1 + 1e-9)
    assert number <= 1.1 * images * factor**2 + 10, "two digits, rounded up"


def test_numbers_are_rounded_up_to_two_digits() -> None:
    assert [rounded_up(number) for number in (7.2, 99.5, 1234, 2048, 9951)] == [8, 100, 1300, 2100, 10000]
    assert pytest.approx(1.96, abs=1e-3) == NORMAL
