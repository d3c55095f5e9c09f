"""Claims judged on the runs of three seeds together: means, intervals with the spread between runs, and the page."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.core.run_to_run import reach
from qdit.report.claims.claims import FAILS, HOLDS
from qdit.report.claims.pooled import mean_over_runs
from qdit.report.claims.report import load_report
from qdit.report.claims.summary import first_sentences
from qdit.report.data.values import IMAGES_ALONE, Quantity, Truth, Unknown, Value, compare
from qdit.report.pages.claims_page import claims_page
from tests.report.conftest import change_protocol

SEEDS = (0, 1, 2)
GUIDED = "digits-cfg1.5-s20"
DRAWS = np.random.default_rng(0).normal(size=(3, 2000))
DRAWS -= DRAWS.mean(axis=1, keepdims=True)
"""Resampled values of three runs with different images, each with mean 0 and standard deviation 1."""


def cell(values: list[float], noise: float) -> Value:
    """The mean of a cell over three runs. Images change the number of each run by `noise`, each run on its own."""
    samples = np.array(values)[:, None] + noise * DRAWS
    return mean_over_runs(
        {seed: Quantity(value, samples[seed], "p", True, images=64) for seed, value in zip(SEEDS, values, strict=True)}
    )


def above(values: list[float], noise: float) -> Truth:
    """Whether the mean of these differences is above zero. The other row is zero in every image."""
    return compare(">", cell(values, noise), cell([0.0, 0.0, 0.0], 0.0), "a > b")


def test_without_images_it_is_the_t_interval_of_three_differences() -> None:
    values = np.array([1.0, 0.7, 1.3])
    (evidence,) = above(list(values), 0.0).evidence
    assert evidence.gap == pytest.approx(1.0)
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert evidence.interval == pytest.approx(expected, rel=1e-6)


def test_without_spread_between_runs_the_images_of_all_runs_count() -> None:
    """Three runs have three times the images: the interval is shorter by √3, and decides what no run decides alone."""
    alone = Quantity(0.15, 0.15 + 0.1 * DRAWS[0], "p", True)
    assert compare(">", alone, Quantity(0.0, np.zeros(2000), "p", True), "").value is None
    truth = above([0.15, 0.15, 0.15], 0.1)
    (evidence,) = truth.evidence
    assert truth.value is True and evidence.limits is not None and evidence.limits.variance == 0
    assert np.diff(evidence.limits.ends) == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(3), rel=0.1)


def test_runs_that_disagree_are_not_decided_by_their_images() -> None:
    """Each run alone is sure, one of them of the opposite."""
    values = [3.0, 2.5, -1.0]
    truth = above(values, 0.1)
    assert truth.value is None and truth.evidence[0].reason == IMAGES_ALONE
    samples = np.array(values)[:, None] + 0.1 * DRAWS
    images = tuple(np.quantile(samples.mean(axis=0), [0.025, 0.975]))
    variance = (np.var(values, ddof=1) - 0.1**2 * np.var(DRAWS, axis=0, ddof=1).mean() / 2) / 3
    limits = truth.evidence[0].limits
    assert limits is not None and limits.variance == pytest.approx(variance) and limits.replicates == 3
    assert limits.images == pytest.approx(images)
    assert limits.low == pytest.approx(1.5 - reach(1.5 - images[0], variance, 3)[0])


@pytest.mark.parametrize("runs", [0.0, 1.0, 10.0])
def test_intervals_of_runs_with_different_images_cover_the_true_mean(runs: float) -> None:
    """2,000 simulated triples; the unit is the variance that images give to a run. Coverage may be above 95 %."""
    random = np.random.default_rng(int(runs) + 1)
    covered = 0
    for _ in range(2000):
        values = random.normal(scale=np.sqrt(runs + 1), size=3)
        drawn = random.normal(size=(3, 100))
        drawn += (values - drawn.mean(axis=1))[:, None]
        mean = mean_over_runs({n: Quantity(float(value), drawn[n], "p", True) for n, value in enumerate(values)})
        assert isinstance(mean, Quantity) and mean.limits is not None
        covered += mean.limits.includes_zero
    assert 0.915 < covered / 2000 < 0.99


def test_a_cell_that_one_run_lacks_is_unknown() -> None:
    known = Quantity(1.0, np.ones(8), "p", True)
    assert mean_over_runs({0: known, 1: Unknown("rtn w4a8: missing"), 2: known}) == Unknown("seed 1: rtn w4a8: missing")
    bare = mean_over_runs({0: known, 1: Quantity(3.0, measured=True)})
    assert bare == Quantity(2.0, measured=True), "no interval where a run has none"


@pytest.fixture
def seeds(results: Path, tmp_path: Path) -> list[Path]:
    """The same rows with the seeds 1 and 2."""
    folders = [tmp_path / "results" / f"seed{seed}" for seed in SEEDS[1:]]
    for seed, folder in zip(SEEDS[1:], folders, strict=True):
        shutil.copytree(results, folder)
        for path in folder.glob("runs/**/metrics.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            change_protocol(record, seed=seed)
            path.write_text(json.dumps(record), encoding="utf-8")
    return folders


def test_the_page_judges_the_means_and_compares_each_run_with_them(
    results: Path, profile: dict[str, Any], seeds: list[Path]
) -> None:
    """With seed 2, groups of 16 are so bad that the mean over the seeds is worse than RTN without groups."""
    path = Run(GUIDED, "natural", "rtn-g16-static", "w4a8", "common").folder(seeds[1]) / "metrics.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["metrics"]["psnr_fp"] = 1.0
    path.write_text(json.dumps(record), encoding="utf-8")
    claim = "groups-improve"
    assert load_report(profile, results, seeds).verdicts["mini"][claim].word == HOLDS
    report = load_report(profile, results, seeds, together=True)
    assert report.verdicts["mini"][claim].word == FAILS and report.seeds == SEEDS
    compared = report.survival["mini"]
    assert [comparison.name.partition(" in ")[0] for comparison in compared] == [f"the run of seed {n}" for n in SEEDS]
    assert [comparison.words[claim][1] for comparison in compared] == [HOLDS, HOLDS, FAILS]
    sentences = first_sentences(report)
    assert "the runs of profile mini (means over the seeds 0, 1, 2) decide" in sentences[1]
    assert "decided claims were judged again on 3 of the runs alone" in sentences[-1]
    page = " ".join(claims_page(report).split())
    assert sentences[1] in page and "the same verdict in 1 of 3 runs alone" in page


def test_two_runs_say_too_little_about_their_spread(results: Path, profile: dict[str, Any], seeds: list[Path]) -> None:
    with pytest.raises(ConfigError, match="--together: found 1 other runs, at least 2 are needed"):
        load_report(profile, results, seeds[:1], together=True)
