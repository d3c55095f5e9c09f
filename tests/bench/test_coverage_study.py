"""The coverage study: its simulated tables against their closed forms, its counts, and its page."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qdit.bench.coverage_study import FAR, SHARED_DEVIATION, Condition, Plan, coverage_study, gaps, simulate
from qdit.bench.coverage_study_page import page_text, write_page
from qdit.core.errors import ConfigError
from qdit.metrics.bootstrap import multiplicities

PLAN = Plan(images=32)


@pytest.mark.parametrize("metric", ["mean", "distance"])
def test_tables_have_the_expected_values_and_variances_that_their_condition_says(metric: str) -> None:
    condition, draw = Condition(metric, ratio=3.0, mixed=1.0), np.random.default_rng(0)
    counts = multiplicities(PLAN.images, 20)
    tables = [simulate(PLAN, condition, counts, draw) for _ in range(1500)]
    values = np.array([table.values for table in tables])
    mean = 1 / np.sqrt(PLAN.images)
    far = FAR * mean * (1 + 0.1 * np.arange(3))
    spread = mean**2 * (SHARED_DEVIATION**2 + 1 + 3 + 1)
    expected = far if metric == "mean" else far**2 + 4 * spread
    assert tables[0].truth == pytest.approx(expected)
    assert values.mean(axis=(0, 2)) == pytest.approx(expected, rel=0.02)
    if metric == "mean":
        difference = values[:, 0] - values[:, 1]
        assert difference.mean(axis=1).var() == pytest.approx(2 * mean**2 * (1 + (3 + 1) / 3), rel=0.1)
        assert difference.var(axis=1, ddof=1).mean() == pytest.approx(2 * mean**2 * 4, rel=0.1)


def test_gaps_are_true_and_measured_differences_of_neighbours() -> None:
    table = simulate(PLAN, Condition("distance", 0, 0), multiplicities(PLAN.images, 20), np.random.default_rng(1))
    for (a, b), (truth, runs) in zip(pairwise(range(3)), gaps(table, "distance"), strict=True):
        assert truth == table.truth[a] - table.truth[b]
        assert np.allclose(runs.values, table.values[a] - table.values[b])
        assert np.allclose(runs.samples.mean(axis=1), runs.values), "resampled values are shifted to the measured one"
        assert runs.values == pytest.approx(np.full(3, runs.values[0])), "nothing differs between the replicates"
        assert runs.variance < 1e-20


def test_images_alone_miss_what_runs_spread_and_both_sources_hold_it(tmp_path: Path) -> None:
    chosen = [Condition("mean", ratio, 0.0) for ratio in (0.0, 10.0)]
    study = coverage_study(Plan(tables=150, images=32, resamples=100), chosen=chosen)
    still, spread = study["conditions"]
    assert still["coverage"] == still["by_images_alone"] and still["length"] == 1
    assert spread["by_images_alone"] < 0.8 and spread["coverage"] > 0.88 and spread["length"] > 2
    assert study["least"] == min(still["coverage"], spread["coverage"]) and still["pairs"] == 300
    for name in ("a", "b"):
        write_page(study, tmp_path / f"{name}.md")
    assert (tmp_path / "a.md").read_bytes() == (tmp_path / "b.md").read_bytes()
    text = page_text(study | {"as_wanted": False})
    both, alone = (
        [f"{entry[key]:.{n}%}" for entry in (still, spread)] for key, n in (("coverage", 1), ("by_images_alone", 0))
    )
    assert all(f"| mean | 0 | {' | '.join(cells)} |" in text for cells in (both, alone)) and "**not**" in text


def test_two_replicates_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="replicates 2: must be at least 3"):
        Plan(replicates=2)
