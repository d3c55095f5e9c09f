"""Intervals over clips: the clips of a dimension are resampled, alike for all runs; skipped clips do not count."""

from functools import partial

import numpy as np
import pytest

from qdit.core.metrics import DIMENSIONS, TOTALS
from qdit.metrics.bootstrap import ClipFeatures, clip_bootstrap, resampled_means
from qdit.metrics.paired import PixelComparison, psnr_of
from qdit.metrics.statistics import moments
from qdit.metrics.vbench_totals import scaled_between, totals

CLIPS, FEATURES = 12, 5


def features(seed):
    return np.random.default_rng(seed).standard_normal((CLIPS, FEATURES))


def pixels(errors):
    return PixelComparison(errors, psnr_of(errors, 64), 1 / (1 + errors), 7)


def scores(seed, clips=6):
    draw = np.random.default_rng(seed)
    return {name: list(draw.uniform(size=clips)) for name in DIMENSIONS}


def test_means_of_a_resample_are_those_of_the_clips_it_drew():
    values = [1.0, 10.0, 100.0]
    found = resampled_means(values, 0, 300)
    possible = {a + b + c for a in values for b in values for c in values}
    assert {round(3 * mean, 6) for mean in found} <= possible and len(set(found)) > 5
    assert found.mean() == pytest.approx(np.mean(values), rel=0.15)


def test_skipped_clips_do_not_count_and_without_any_the_score_is_zero():
    assert set(resampled_means([0.5, None, None], 3, 200)) == {0.0, 0.5}
    assert set(resampled_means([None, None], 3, 50)) == {0.0}


def test_all_runs_see_the_same_clips_so_a_constant_gap_is_certain():
    first, second = scores(0), {name: [value + 0.1 for value in of] for name, of in scores(0).items()}
    real = moments(features(9))
    one, other = (clip_bootstrap(of, CLIPS, features=ClipFeatures(features(1), real)) for of in (first, second))
    assert one.pairing == other.pairing
    for name in DIMENSIONS:
        assert np.allclose(other.values[name] - one.values[name], 0.1)
    assert clip_bootstrap(scores(0, clips=5), CLIPS).pairing != one.pairing


def test_dimensions_are_drawn_independently_of_each_other():
    same = {name: [0.0, 1.0, 2.0, 3.0] for name in DIMENSIONS}
    values = clip_bootstrap(same, CLIPS).values
    assert abs(np.corrcoef([values[name] for name in DIMENSIONS])[~np.eye(16, dtype=bool)]).max() < 0.35


def test_totals_are_those_of_the_resampled_scores():
    worst, best = dict.fromkeys(DIMENSIONS, 0.0), dict.fromkeys(DIMENSIONS, 2.0)
    scaled = partial(scaled_between, worst=worst, best=best)
    found = clip_bootstrap(scores(0), CLIPS, scaled=scaled, resamples=20).values
    expected = totals(scaled({name: float(found[name][7]) for name in DIMENSIONS}))
    assert {name: found[name][7] for name in TOTALS} == pytest.approx(expected)


def test_paired_metrics_are_zero_for_full_precision_and_means_of_errors_else():
    own, real = features(1), moments(features(2))
    itself = clip_bootstrap(
        scores(0), CLIPS, features=ClipFeatures(own, real, own), pixels=pixels(np.zeros(CLIPS))
    ).values
    assert not itself["fd_fp"].any() and not itself["mse_fp"].any() and not itself["mind_fp"].any()
    errors = np.linspace(0, 1, CLIPS)
    other = clip_bootstrap(
        scores(0), CLIPS, features=ClipFeatures(own, real, features(3)), pixels=pixels(errors)
    ).values
    assert other["mse_fp"].mean() == pytest.approx(0.5, abs=0.05) and (other["fd_fp"] > 0).all()
    assert (other["mind_fp"] > 0).all() and other["ssim_fp"].mean() == pytest.approx(0.7, abs=0.1)
    assert "psnr_fp" in other and "psnr_fp" not in itself
