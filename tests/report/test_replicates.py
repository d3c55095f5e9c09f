"""Rows with replicates: means, intervals from both sources, and what ranks and claims say of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from qdit.core.intervals import Resamples, centred, interval, write_resamples
from qdit.core.run import Run
from qdit.core.run_to_run import RunToRun, combined
from qdit.report.data.compare_rows import difference, quantity
from qdit.report.data.multiplicity import Separation
from qdit.report.data.replicates import COUNT, read_row
from qdit.report.data.rows import Block
from qdit.report.data.standings import TIED_BY_RUNS, contests, standings
from qdit.report.data.values import IMAGES_ALONE, compare
from qdit.report.pages.leaderboard import ranks
from qdit.report.render.notes import notes
from qdit.report.tables.kinds import load_table

DRAW = np.random.default_rng(0).normal(size=200)
KEY = Run("digits-cfg1.0-s20", "natural", "rtn", "w4a8", "common")


def row(fd_fp: list[float], noise: float = 0.01, **cells: Any) -> dict[str, Any]:
    """A row with these values in its replicates, which images change by `noise`."""
    values, mean = np.array(fd_fp), float(np.mean(fd_fp))
    samples = mean + noise * (DRAW - DRAW.mean())
    runs = {} if len(fd_fp) == 1 else {"fd_fp": RunToRun(values, values[:, None] + (samples - mean)[None])}
    resampled = Resamples({"fd_fp": samples}, "p")
    facts = {"weight_bits": 4, "activation_bits": 8, "method": "rtn", "key": KEY, "short": "W4A8 a"}
    return {"fd_fp": mean, "resamples": resampled, "run_to_run": runs, **facts, **cells}


def test_the_difference_of_two_rows_with_replicates_is_that_of_their_replicates() -> None:
    """Equal images in both rows leave only runs: the t interval of the three differences."""
    a, b = row([1.0, 1.4, 1.2]), row([2.0, 2.1, 2.5])
    gap = difference(a, b, "fd_fp")
    gaps = np.array([-1.0, -0.7, -1.3])
    assert gap is not None and gap.value == pytest.approx(-1.0)
    assert gap.interval == pytest.approx(stats.t.interval(0.95, 2, loc=gaps.mean(), scale=stats.sem(gaps)), rel=1e-6)


def test_a_row_without_replicates_leaves_images_alone() -> None:
    noisy = row([1.0], noise=0.5)
    gap = difference(row([1.0, 1.4, 1.2]), noisy, "fd_fp")
    assert gap is not None and gap.limits is not None and gap.limits.images == gap.interval
    full = row([0.0], noise=0.0, method="fp")
    known = difference(row([1.0, 1.4, 1.2]), full, "fd_fp")
    assert known is not None and known.limits is not None
    assert known.limits.degrees < 3, "full precision draws nothing, so its one run stands for all"


def test_what_images_alone_decide_is_said_in_claims_and_ranks(by_distance: None) -> None:
    a, b = row([1.0, 1.4, 1.2]), row([1.3, 1.2, 1.55], noise=0.011)
    truth = compare("<", quantity(a, "fd_fp"), quantity(b, "fd_fp"), "a < b")
    (evidence,) = truth.evidence
    assert truth.value is None and evidence.reason == IMAGES_ALONE
    assert evidence.limits is not None and evidence.limits.images[1] < 0 < evidence.limits.high
    separation = Separation([a, b], "fd_fp")
    assert not separation.apart(a, b) and separation.by_images_alone(a, b)
    block = Block("t", "", (a, b))
    assert [standing.verdict for standing in standings(block) if standing][1] == TIED_BY_RUNS
    assert contests(block)[0].tied == (b,)
    sure = row([5.0, 5.2, 5.1])
    assert Separation([a, sure], "fd_fp").apart(a, sure) and not Separation([a, sure], "fd_fp").by_images_alone(a, sure)


@pytest.fixture
def repeated(results: Path, profile: dict[str, Any]) -> tuple[Path, dict[str, Any], Run]:
    """Results in which a row has two further replicates, and their profile."""
    table = next(name for name, entry in profile["tables"].items() if entry["kind"] == "table2")
    block = profile["tables"][table]["blocks"][0]
    label = next(label for label in block["methods"] if label != "fp")
    key = Run(block["setting"], block["form"], label, block["bits"][0], block["scope"])
    record = json.loads((key.folder(results) / "metrics.json").read_text(encoding="utf-8"))
    value = record["metrics"]["fd_fp"]
    for number, factor in enumerate((1.0, 1.5, 0.8)):
        folder = replace(key, replicate=number).folder(results)
        if number:
            shutil.copytree(key.folder(results), folder)
        samples = {"fd_fp": factor * value * (1 + 0.01 * DRAW)}
        content = record | {"metrics": record["metrics"] | {"fd_fp": factor * value}}
        content["intervals"] = {"fd_fp": interval(centred("fd_fp", factor * value, samples["fd_fp"]))}
        content["run"] = record["run"] | ({"replicate": number} if number else {})
        (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
        write_resamples(folder, Resamples(samples, "p"))
    rows = [{"table": table, "setting": key.setting, "bits": [key.bits], "methods": [label]}]
    return results, profile | {"replicates": {"count": 3, "rows": rows}}, key


def test_a_row_shows_the_mean_of_its_replicates(repeated: tuple[Path, dict[str, Any], Run]) -> None:
    results, profile, key = repeated
    alone = read_row(results, key, {**profile, "replicates": None})
    read = read_row(results, key, profile)
    values = alone["fd_fp"] * np.array([1.0, 1.5, 0.8])
    assert alone[COUNT] == 1 and read[COUNT] == 3 and read["fd_fp"] == pytest.approx(values.mean())
    expected = combined(read["fd_fp"], interval(quantity(read, "fd_fp").samples), read["run_to_run"]["fd_fp"])  # type: ignore[arg-type]
    assert (read["fd_fp_low"], read["fd_fp_high"]) == pytest.approx(expected.ends)
    assert read["fd_fp_high"] - read["fd_fp_low"] > 3 * (alone["fd_fp_high"] - alone["fd_fp_low"])
    assert read["checkpoint_sha256"] == alone["checkpoint_sha256"] and read["mse_fp"] == pytest.approx(alone["mse_fp"])


def test_a_table_says_its_replicates_and_a_missing_one(repeated: tuple[Path, dict[str, Any], Run]) -> None:
    results, profile, key = repeated
    table = load_table(profile, profile["replicates"]["rows"][0]["table"], results)
    assert any("1 of" in line and "have 3 replicates" in line for line in notes(table).reading)
    counts = table.frame[COUNT].tolist()
    assert counts.count(3) == 1 and set(counts) <= {1, 3, None}
    (replace(key, replicate=2).folder(results) / "metrics.json").unlink()
    table = load_table(profile, profile["replicates"]["rows"][0]["table"], results)
    assert not any("replicates:" in line for line in notes(table).reading)
    assert any("shows replicate 0 alone" in line and "1 of 2" in line for line in notes(table).warnings)


def test_a_metric_whose_larger_values_are_better_orders_from_the_largest() -> None:
    """The largest PSNR-FP is the first, in ranks and on the leaderboard."""
    facts = {"weight_bits": 4, "activation_bits": 8, "method": "rtn", "key": KEY, "short": "W4A8 a"}
    samples = {value: Resamples({"psnr_fp": value + 0.01 * DRAW * value}, "p") for value in (30.0, 41.0, 35.0)}
    rows = [{"psnr_fp": value, "fd_fp": value, "resamples": drawn, **facts} for value, drawn in samples.items()]
    (contest,) = contests(Block("t", "", tuple(rows)))
    assert [row["psnr_fp"] for row in contest.rows] == [41.0, 35.0, 30.0]
    assert [standing.rank for standing in standings(contest.block) if standing] == [3, 1, 2]
    assert [ranks(row, rows)["rank"] for row in rows] == ["3", "1", "2"]
