"""Differences between runs: marks in tables, ranks of the leaderboard, and two folders side by side."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.run import Run
from qdit.report.data.compare_rows import difference
from qdit.report.data.metrics_json import read_folder, read_run
from qdit.report.pages.build import build_table
from qdit.report.pages.compare import COLUMNS, compare_text
from qdit.report.pages.leaderboard import EXTRA, build_leaderboard, leaderboard
from qdit.report.render.display import best_cells, tied_cells
from qdit.report.render.notes import notes
from qdit.report.tables.kinds import load_table
from tests.report.conftest import of_another_protocol, psnr

PLAIN = "digits-cfg1.0-s20"
LABELS = ("rtn", "g4w+p4a", "q-dit")  # FD-FP 0.3, 0.15 and 0.03 at W4A8
Change = Callable[[Run, Callable[[dict[str, Any]], None]], None]


def key_of(label: str) -> Run:
    return Run(PLAIN, "natural", label, "w16a16" if label == "fp" else "w4a8", "common")


@pytest.fixture
def spread(results: Path) -> Callable[..., None]:
    """Resampled values: noise that all runs share, and some of each run's own, by label (39 times as much in PSNR)."""

    def write(pairing: str = "one", **own: float) -> None:
        shared = np.random.default_rng(0).normal(size=200)
        for number, label in enumerate(LABELS):
            noise = np.random.default_rng(number + 1).normal(size=200) * own.get(label, 0.001)
            values = dict.fromkeys(("fd_fp", "fid"), 5 + shared + noise)
            values["psnr_fp"] = psnr(key_of(label)) + shared + 39 * (noise - noise.mean())
            write_resamples(key_of(label).folder(results), Resamples(values, pairing))

    return write


def test_a_difference_has_the_interval_of_what_is_not_shared(results: Path, spread: Any) -> None:
    spread()
    a, b = (read_run(results, key_of(label)) for label in ("rtn", "q-dit"))
    gap = difference(a, b, "fd_fp")
    assert gap is not None and gap.value == pytest.approx(0.27) and gap.interval is not None
    assert 0.26 < gap.interval[0] < 0.27 < gap.interval[1] < 0.28 and gap.is_chance is False
    without = difference(a, b, "sfid")
    assert without is not None and without.interval is None and without.is_chance is None
    assert difference(a, {"fd_fp": None}, "fd_fp") is None


def test_rows_no_worse_than_chance_are_marked_in_every_format(
    results: Path, profile: dict[str, Any], spread: Any, tmp_path: Path
) -> None:
    bare = load_table(profile, "table2", results)
    assert tied_cells(bare.blocks[0], best_cells(bare.blocks[0])) == set()
    assert "≈" not in " ".join(notes(bare).reading)
    spread(**{"q-dit": 0.2})
    table = load_table(profile, "table2", results)
    block = table.blocks[0]
    tied = {(block.rows[n]["label"], cell) for n, cell in tied_cells(block, best_cells(block))}
    assert tied == {(label, name) for label in ("g4w+p4a", "rtn") for name in ("psnr_fp", "fd_fp", "fid")}
    assert "≈: the difference to the best row may be chance" in " ".join(notes(table).reading)
    texts = {path.suffix: path.read_text() for path in build_table(profile, "table2", results, tmp_path / "t")}
    assert texts[".md"].count("| ≈ 0.300") == 1 or "≈ 0.300" in texts[".md"]
    assert r"$\approx$ $0.300$" in texts[".tex"] and "≈ 0.300" in texts[".html"]


def test_intervals_are_columns_of_the_csv(results: Path, profile: dict[str, Any], change_record: Change) -> None:
    change_record(key_of("q-dit"), lambda record: record.update(intervals={"fid": [1.5, 2.5]}))
    frame = load_table(profile, "table2", results).frame
    row = frame[(frame.label == "q-dit") & (frame.setting == PLAIN) & (frame.weight_bits == 4)].iloc[0]
    assert (row.fid_low, row.fid_high, row.fd_fp_low) == (1.5, 2.5, None)
    change_record(key_of("q-dit"), lambda record: record.update(intervals={"fid": 3}))
    assert "the interval of fid is 3" in read_run(results, key_of("q-dit"))["status"]


def ranks(profile: dict[str, Any], results: Path) -> dict[str, str]:
    rows = leaderboard(profile, results).rows
    return {row["label"]: row.get("rank") for row in rows if row["key"] in [key_of(label) for label in (*LABELS, "fp")]}


def test_ranks_say_what_chance_leaves_open(results: Path, profile: dict[str, Any], spread: Any) -> None:
    assert ranks(profile, results) == {"fp": None, "q-dit": "1", "g4w+p4a": "2", "rtn": "3"}
    spread(**{"q-dit": 0.1})  # ± 7.6 dB: not to be told from G4W+P4A, 7 dB lower, but from RTN, 10 dB lower
    assert ranks(profile, results) == {"fp": None, "q-dit": "1–2", "g4w+p4a": "1–2", "rtn": "3"}
    spread(**{"q-dit": 1.0})
    assert ranks(profile, results) == {"fp": None, "q-dit": "1–3", "g4w+p4a": "1–2", "rtn": "2–3"}


def test_the_leaderboard_has_every_run_once_best_first(results: Path, profile: dict[str, Any]) -> None:
    table = leaderboard(profile, results)
    keys = [row["key"] for row in table.rows]
    assert len(keys) == len(set(keys)) == 23 and set(EXTRA) <= set(table.frame.columns)
    for block in table.blocks:
        quantized = [row for row in block.rows if row["method"] != "fp"]
        for bits in {row["weight_bits"] for row in quantized}:
            scores = [row["psnr_fp"] for row in quantized if (row["weight_bits"], row["activation_bits"]) == (bits, 8)]
            assert scores == sorted(scores, reverse=True)
    guided = Run("digits-cfg1.5-s20", "natural", "rtn", "w4a8", "common")
    shared = next(row for row in table.rows if row["key"] == guided)
    assert shared["tables"] == "table2 table4" and shared["published_fid"] == 225.50
    salient = [row for row in table.rows if row["form"] == "salient" and row["label"] == "rtn"]
    assert [row["fitted"] for row in salient] == ["fitted"]


def test_the_leaderboard_of_a_partial_run_says_what_is_missing(results: Path, profile: dict[str, Any]) -> None:
    shutil.rmtree(key_of("rtn").folder(results))
    profile["tables"]["table4"]["opt_in"] = True
    shutil.rmtree(results / "runs" / "digits-cfg1.5-s20" / "salient")
    first = [path.read_bytes() for path in build_leaderboard(profile, results)]
    rows = {(row["label"], row["bits"]): row for row in csv_rows(first[0])}
    assert rows["rtn", "4"]["status"] and "missing: no metrics.json" in first[1].decode()
    assert not any(row["form"] == "salient" for row in csv_rows(first[0]))  # of a table that nobody asked for
    assert [path.read_bytes() for path in build_leaderboard(profile, results)] == first


def csv_rows(data: bytes) -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO(data.decode()))
    return [row | {"bits": row["weight_bits"]} for row in rows if row["setting"] == PLAIN]


def test_two_runs_side_by_side(results: Path, spread: Any) -> None:
    spread()
    text, frame = compare_text(*(key_of(label).folder(results) for label in ("rtn", "q-dit")))
    assert list(frame.columns) == list(COLUMNS)
    verdicts = dict(zip(frame.metric, frame.verdict, strict=True))
    assert verdicts["fd_fp"] == "better" and verdicts["sfid"] == verdicts["mse_fp"] == "no interval"
    row = frame[frame.metric == "fd_fp"].iloc[0]
    assert (row.a, row.b) == (0.3, 0.03) and row.low < row.difference < row.high < 0
    assert "label: rtn | q-dit" in text and "differ in: checkpoint_sha256" in text
    back = compare_text(*(key_of(label).folder(results) for label in ("q-dit", "rtn")))[1]
    assert dict(zip(back.metric, back.verdict, strict=True))["fd_fp"] == "worse"


def test_higher_is_better_where_it_is(results: Path) -> None:
    for label, value in (("rtn", 0.2), ("q-dit", 0.9)):
        folder = key_of(label).folder(results)
        record = json.loads((folder / "metrics.json").read_text())
        record["metrics"]["precision"] = value
        (folder / "metrics.json").write_text(json.dumps(record))
        write_resamples(folder, Resamples({"precision": np.full(9, value)}, "one"))
    frame = compare_text(*(key_of(label).folder(results) for label in ("rtn", "q-dit")))[1]
    assert dict(zip(frame.metric, frame.verdict, strict=True))["precision"] == "better"


def test_other_drawings_give_no_interval(results: Path, spread: Any) -> None:
    spread()
    write_resamples(key_of("q-dit").folder(results), Resamples({"fd_fp": np.ones(200)}, "another"))
    text, frame = compare_text(*(key_of(label).folder(results) for label in ("rtn", "q-dit")))
    assert set(frame.verdict) <= {"no interval", "same"} and "resampled in different ways" in text


def test_two_versions_of_the_suite(results: Path, change_record: Change, tmp_path: Path) -> None:
    before = Path(shutil.copytree(results, tmp_path / "before"))
    same, _ = compare_text(before, results)
    assert "23 runs in both, 0 only in a, 0 only in b" in same and key_of("rtn").label not in same.split("FD-FP")[1]
    change_record(key_of("rtn"), lambda record: record["metrics"].update(fid=9.0))
    change_record(key_of("q-dit"), of_another_protocol)
    shutil.rmtree(key_of("g4w+p4a").folder(results))
    key = key_of("fp").folder(results) / "metrics.json"
    key.write_text(json.dumps({"error": "failed in sample: out of paper"}))
    text, frame = compare_text(before, results)
    assert "22 runs in both, 1 only in a, 0 only in b" in text
    changed = frame[frame.verdict == "no interval"]
    assert list(changed.run) == [f"{PLAIN}/natural/rtn/w4a8-common"] and list(changed.b) == [9.0]
    assert "q-dit/w4a8-common: protocols differ" in text and "out of paper" in text


def test_what_cannot_be_compared_is_one_clear_line(results: Path, tmp_path: Path) -> None:
    run = key_of("rtn").folder(results)
    for a, b, message in (
        (run, results, "compare two of the same kind"),
        (run, tmp_path, "has neither metrics.json"),
    ):
        with pytest.raises(DataError, match=message):
            compare_text(a, b)
    (run / "metrics.json").write_text('{"error": "unsupported: W1"}')
    with pytest.raises(DataError, match="unsupported: W1"):
        read_folder(run)
