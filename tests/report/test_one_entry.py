"""A metric is one entry: KID, as docs/add-a-metric.md adds it, is in everything that is read from the registry."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core import metrics
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.metrics import METRICS, Metric
from qdit.core.run import Run
from qdit.metrics.bootstrap import bootstrap, intervals, multiplicities
from qdit.metrics.evaluate import evaluate
from qdit.report.claims.language import functions, parse
from qdit.report.claims.sources import Measured
from qdit.report.data.metrics_json import read_run
from qdit.report.data.values import Quantity
from qdit.report.pages.compare import compare_text
from qdit.report.pages.leaderboard import build_leaderboard
from qdit.report.render.text import csv_text, markdown_text
from qdit.report.tables.kinds import load_table
from tests.metrics.test_bootstrap import pair, reference_of
from tests.report.conftest import PLAIN

DOCUMENT = Path(__file__).parents[2] / "docs" / "add-a-metric.md"
Change = Callable[[Run, Callable[[dict[str, Any]], None]], None]


def listing(title: str) -> str:
    """A listing of the page by its title."""
    pattern = rf'```python title="{re.escape(title)}"\n(.*?)```'
    found = re.search(pattern, DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def kid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Metric:
    """The page's function in a module, and the page's entry in the registry."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "kernel_distance.py").write_text(
        listing("qdit/metrics/kernel_distance.py"), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path / "plugin")
    entry = listing("qdit/core/metrics.py").replace("qdit.metrics.kernel_distance", "kernel_distance")
    metric = eval(entry, vars(metrics))
    assert isinstance(metric, Metric)
    monkeypatch.setitem(METRICS, metric.name, metric)
    return metric


def test_it_is_evaluated_and_has_an_interval(kid: Metric) -> None:
    run, fp = pair(60, 4)
    reference = reference_of(4)
    found = evaluate(run, reference=reference, fp=fp)
    x, y = run.features.pool, reference.pool_features
    assert y is not None and found["kid"] == pytest.approx(by_double_loop(x, y))
    resampled = bootstrap(run, reference=reference, fp=fp, resamples=40)
    low, high = intervals(found, resampled)["kid"]
    assert low < found["kid"] < high
    own = x.repeat(multiplicities(60, 40)[3], axis=0)
    assert resampled.values["kid"][3] == pytest.approx(by_double_loop(own, y))


def by_double_loop(x: np.ndarray, y: np.ndarray) -> float:
    """The definition of MMD² with (xᵀy / d + 1)³, pair by pair."""

    def mean(a: np.ndarray, b: np.ndarray, *, same: bool) -> float:
        pairs = [(u @ v / len(u) + 1) ** 3 for i, u in enumerate(a) for j, v in enumerate(b) if not (same and i == j)]
        return float(np.mean(pairs))

    return mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)


@pytest.fixture
def with_kid(kid: Metric, results: Path, change_record: Change) -> Path:
    """Results in which two methods have it, with resampled values; the others were evaluated before."""
    for label, value in (("rtn", 3e-3), ("q-dit", 1e-3)):
        key = Run(PLAIN, "natural", label, "w4a8", "common")

        def add(content: dict[str, Any], value: float = value) -> None:
            content["metrics"]["kid"] = value
            content["intervals"] = {"kid": [0.9 * value, 1.1 * value]}

        change_record(key, add)
        drawn = value + np.linspace(-1, 1, 50) * 0.1 * value / 0.95  # its interval is ± 10 %
        write_resamples(key.folder(results), Resamples({"kid": drawn}, "50x1024"))
    return results


def test_csv_page_and_leaderboard_show_it(with_kid: Path, profile: dict[str, Any]) -> None:
    table = load_table(profile, "table2", with_kid)
    frame = table.frame
    row = frame[(frame.label == "q-dit") & (frame.weight_bits == 4) & (frame.setting == PLAIN)].iloc[0]
    assert (row.kid, row.kid_low, row.kid_high) == pytest.approx((1e-3, 9e-4, 1.1e-3))
    assert "kid,kid_low" not in csv_text(table).splitlines()[0] and ",kid," in csv_text(table).splitlines()[0]
    text = markdown_text(table)
    assert "KID ↓ ours" in text and "**1.00e-3**" in text and "3.00e-3" in text and "**3.00e-3**" not in text
    paths = build_leaderboard(profile, with_kid)
    csv, text, page = (path.read_text(encoding="utf-8") for path in paths)
    assert "kid_low" in csv.splitlines()[0] and "KID\u00a0↓" in page and "1.00e−3" in page
    assert "KID ↓" in text and "**1.00e-3**" in text


def test_claims_and_comparisons_read_it(with_kid: Path, profile: dict[str, Any]) -> None:
    assert "kid" in functions()
    parse("kid('q-dit', 'w4a8', '256') < kid('rtn', 'w4a8', '256')", table="table2", sets={})
    found = Measured(profile, with_kid).cell("table2", "kid", ("q-dit", "w4a8", "256"))
    assert isinstance(found, Quantity) and found.value == 1e-3 and found.samples is not None
    folders = [Run(PLAIN, "natural", label, "w4a8", "common").folder(with_kid) for label in ("rtn", "q-dit")]
    text, frame = compare_text(*folders)
    assert "KID" in text and list(frame[frame.metric == "kid"].verdict) == ["better"]


def test_a_run_evaluated_before_is_still_read(with_kid: Path) -> None:
    row = read_run(with_kid, Run(PLAIN, "natural", "g4w+p4a", "w4a8", "common"))
    assert row["status"] == "ok" and row["kid"] is None and row["fid"] is not None


def test_every_entry_can_be_computed_and_written() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name and metric.write(0.5) and metric.column_heading
        for path in filter(None, (metric.function, metric.resampled)):
            assert callable(metrics.resolve(path))
        assert not metric.bounded or metric.resampled or metric.of == "clips"
    assert sum(bool(metric.ranks) for metric in METRICS.values()) == 1
    assert [m.name for m in METRICS.values() if m.total] == list(metrics.DIMENSIONS) and len(metrics.DIMENSIONS) == 16
