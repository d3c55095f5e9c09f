"""Intervals from images and replicates, against closed forms and simulated tables."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qdit.core.run_to_run import NORMAL, RunToRun, combined, student_p, student_quantile


def runs_without_images(values: list[float]) -> RunToRun:
    """Replicates whose values do not depend on the images."""
    column = np.array(values)
    return RunToRun(column, np.repeat(column[:, None], 50, axis=1))


def test_without_replicates_or_spread_the_interval_is_that_of_the_images() -> None:
    for runs in (None, runs_without_images([2.0]), runs_without_images([2.0, 2.0, 2.0])):
        limits = combined(2.0, (1.5, 2.75), runs)
        assert limits.ends == limits.images == (1.5, 2.75) and math.isinf(limits.degrees)


def test_without_images_it_is_the_t_interval_of_the_replicates() -> None:
    values = [1.0, 2.0, 4.5, 3.0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    limits = combined(float(np.mean(values)), (float(np.mean(values)),) * 2, runs_without_images(values))
    assert limits.ends == pytest.approx((low, high), rel=1e-9) and limits.degrees == pytest.approx(3)


def test_both_sources_add_as_variances_and_the_degrees_lie_between() -> None:
    """By hand: images 1 ± 0.5 · 1.96, three replicates with s² = 0.75, so v = 0.25 = b² and w = 1/2."""
    runs = runs_without_images([1 - math.sqrt(0.75), 1.0, 1 + math.sqrt(0.75)])
    assert runs.variance == pytest.approx(0.25)
    limits = combined(1.0, (1 - 0.5 * NORMAL, 1 + 0.5 * NORMAL), runs)
    reach = stats.t.ppf(0.975, 2 * 2**0.8) * math.sqrt(0.5)
    assert limits.degrees == pytest.approx(2 * 2**0.8) and limits.ends == pytest.approx((1 - reach, 1 + reach))
    assert limits.includes_zero and limits.by_images_alone and not combined(1.0, (0.1, 1.9), None).by_images_alone


def test_what_images_do_to_each_replicate_is_no_chance_between_runs() -> None:
    """Three replicates with own effects of the images only: two thirds of their spread are taken off."""
    draw = np.random.default_rng(0)
    samples = draw.normal(size=(3, 20000))
    values = np.array([-1.0, 0.0, 1.0])
    assert RunToRun(values, samples).variance == pytest.approx((1 - 2 / 3) / 3, rel=0.05)
    assert RunToRun(0.8 * values, samples).variance == 0
    shared = RunToRun(values, np.tile(samples[0], (3, 1)))
    assert shared.variance == pytest.approx(1 / 3), "effects that all replicates share leave no spread"


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(-100, 100), min_size=3, max_size=8),
    below=st.floats(1e-3, 10),
    above=st.floats(1e-3, 10),
    scale=st.floats(0.01, 100),
)
def test_the_interval_holds_that_of_the_images_and_scales_with_the_numbers(
    values: list[float], below: float, above: float, scale: float
) -> None:
    mean = float(np.mean(values))
    limits = combined(mean, (mean - below, mean + above), runs_without_images(values))
    assert limits.low <= limits.images[0] + 1e-9 and limits.high >= limits.images[1] - 1e-9
    assert limits.degrees >= len(values) - 1 - 1e-9
    scaled = runs_without_images([scale * value for value in values])
    again = combined(scale * mean, (scale * (mean - below), scale * (mean + above)), scaled)
    assert np.allclose(again.ends, [scale * end for end in limits.ends], rtol=1e-6, atol=1e-6 * scale)


def test_students_distribution_is_scipys() -> None:
    assert student_quantile(2) == pytest.approx(stats.t.ppf(0.975, 2)) and student_quantile(math.inf) == NORMAL
    assert student_p(3.0, 2.5) == pytest.approx(2 * stats.t.sf(3.0, 2.5))
    assert student_p(3.0) == pytest.approx(2 * stats.norm.sf(3.0)) == pytest.approx(student_p(3.0, 1e9))
    for degrees in (2.0, 5.5, math.inf):
        assert student_p(student_quantile(degrees), degrees) == pytest.approx(0.05, rel=1e-9)
