"""The table of methods: its first sentence, block times from a record, the Pareto front, and the figure's words."""

import csv
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdit.core.intervals import Resamples
from qdit.core.run import Run
from qdit.report.data.block_times import NOT_MEASURED, SIMULATED_ONLY, measured_blocks, read_block_times
from qdit.report.data.pareto import pareto_front
from qdit.report.data.rows import Block
from qdit.report.data.standings import Contest, contests
from qdit.report.pages.build import build_table
from qdit.report.render.headline import headline
from qdit.report.render.notes import notes
from qdit.report.render.speedup_figure import spread
from qdit.report.tables.kinds import load_table
from qdit.report.tables.methods_finding import finding, tied_text

PLAIN = "digits-cfg1.0-s20"
LABELS = ["fp", "rtn", "rtn-g16-dynamic", "q-dit", "g4w+p4a", "svdquant", "mxfp4"]
TIMES = {"rtn": 0.04, "rtn-g16-dynamic": 0.05, "q-dit": 0.08}
"""Seconds of a block in integers; float32 takes 0.1 and bfloat16 0.08."""


def block_record(**changes: Any) -> dict[str, Any]:
    """A record of `qdit bench block` with a form for each of `TIMES`, one that is simulated only, and one without."""

    def form(seconds: float | None) -> dict[str, Any]:
        calls = {"float32": 0.1, "bfloat16": 0.08, "simulated": 0.12} | (
            {} if seconds is None else {"integer": seconds}
        )
        timings = {
            name: {"minimum": value, "median": value, "spread": 0.0, "repeats": 3} for name, value in calls.items()
        }
        return {"sites": {}, "why": None if seconds else "no kernel multiplies MX blocks", "seconds": {"1": timings}}

    def row(label: str, number: int | None, why: str | None = None) -> dict[str, Any]:
        options = {"group_size": 16} if label in ("q-dit", "g4w+p4a", "rtn-g16-dynamic") else {}
        options |= {"activation": "dynamic"} if label == "rtn-g16-dynamic" else {}
        names = {"rtn-g16-dynamic": "rtn"}
        return {"label": label, "bits": "w4a4", "method": names.get(label, label), "options": options} | {
            "form": number,
            "why": why,
        }

    rows = [row(label, number) for number, label in enumerate(TIMES)]
    rows += [row("mxfp4", len(TIMES)), row("g4w+p4a", None, "a search found its group sizes for the small model only")]
    forms = [form(seconds) for seconds in TIMES.values()] + [form(None)]
    return {
        "format": 1,
        "bench": "block",
        "command": "qdit bench block",
        "commit": "abc123",
        "machine": {"processor": "A processor", "cores": 2, "system": "s"},
        "packages": {},
        "backend": "avx2",
        "load": {"before": 0.5, "after": 0.25},
        "table": "w4a4",
        "device": "cpu",
        "model": {"width": 1152, "tokens": 256, "batch": 2},
        "threads": [1],
        "measured": forms,
        "rows": rows,
        "goals": [],
    } | changes


def write_block(results: Path, content: Any, name: str = "studies/bench-block.json") -> Path:
    path = results.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def methods_profile(profile: dict[str, Any], results: Path, change_record: Callable[..., None]) -> dict[str, Any]:
    """A profile with a table of methods at W4A4, all rows measured; `rtn` is best. No record of block times."""
    profile["methods"] |= {"svdquant": {"method": "svdquant"}, "mxfp4": {"method": "mxfp4"}}
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": ["w4a4"], "methods": LABELS}
    profile["tables"]["w4a4"] = {"kind": "methods", "opt_in": True, "blocks": [block]}
    (results.parent / "studies").mkdir()
    (results.parent / "gpu").mkdir()
    for number, label in enumerate(LABELS[1:]):
        run = Run(PLAIN, "natural", label, "w4a4", "common")
        change_record(run, lambda record, n=number: record["metrics"].update(fd_fp=0.01 * (n + 1), psnr_fp=40.0 - n))
    return profile


def contest_of(values: dict[str, float], *, deviation: float | None = None, shared: float = 0.0) -> Contest:
    """A contest of made-up rows: PSNR-FP by name, FD-FP doubling; resampled values if there is a deviation."""
    common = np.random.default_rng(99).standard_normal(400)
    rows = []
    for number, (name, value) in enumerate(values.items()):
        row: dict[str, Any] = {"weight_bits": 4, "activation_bits": 4, "form": "natural", "label": name, "images": 512}
        row |= {"psnr_fp": value, "fd_fp": 0.01 * 2**number, "short": f"W4A4 {name}", "method": name, "key": name}
        if deviation is not None:
            drawn = value + deviation * np.random.default_rng(number).standard_normal(400) + shared * common
            row["resamples"] = Resamples({"psnr_fp": drawn}, "p")
        rows.append(row)
    return contests(Block("t", "a", tuple(rows)))[0]


def said(contest: Contest) -> str:
    return "".join(text for text, _ in finding(contest))


def test_a_winner_is_named_with_its_lead_and_the_interval() -> None:
    text = said(contest_of({"A": 40.0, "B": 38.5, "C": 30.0}, deviation=0.1))
    assert text.startswith(
        "At W4A4 in the natural form, the winner is A (PSNR-FP 40.00 dB): PSNR-FP of the next, B, is 1."
    )
    assert "1.50 dB lower, its FD-FP 2.00 times as large; the 95 % interval of the paired difference (−1." in text
    assert text.endswith("excludes chance, also with Holm’s control over 3 pairs.")
    assert tied_text(contest_of({"A": 40.0, "B": 38.5}, deviation=0.1)) == ""


def test_noise_that_all_rows_share_does_not_hide_a_winner() -> None:
    assert "the winner is A" in said(contest_of({"A": 40.0, "B": 38.5}, deviation=0.1, shared=20.0))


def test_a_tie_has_no_winner() -> None:
    contest = contest_of({"A": 40.0, "B": 39.9, "C": 30.0}, deviation=1.0)
    text = said(contest)
    assert "no method wins; the best number is that of A" in text and "is 0.10 dB lower" in text
    assert re.search(r"paired difference \(−\d\.\d+ … \d\.\d+\) includes 0, so it may be chance\.$", text)
    assert tied_text(contest) == "Chance can explain the distance to A for: B."


def test_an_interval_that_many_comparisons_take_back_is_no_win() -> None:
    names = {"A": 40.0, "B": 36.5} | {f"C{n}": 36.0 - 0.01 * n for n in range(12)}
    contest = contest_of(names, deviation=1.0)
    text = said(contest)
    assert "no method wins" in text
    assert text.endswith("excludes 0, but with Holm’s control over 91 pairs the difference may be chance.")


def test_without_intervals_nothing_is_called_more_than_chance() -> None:
    text = said(contest_of({"A": 40.0, "B": 38.5}))
    assert "the best number is that of A" in text and "winner" not in text
    assert text.endswith("the difference has no interval, so it may be chance.")
    assert finding(contest_of({"A": 40.0})) == ()
    assert "is equal, its" in said(contest_of({"A": 40.0, "B": 40.0}))


def test_with_a_distance_the_gap_is_a_ratio(by_distance: None) -> None:
    text = said(contest_of({"A": 40.0, "B": 38.5}))
    assert "that of A (FD-FP 0.0100): FD-FP of the next, B, is 2.00 times as large, its PSNR-FP 1.50 dB lower" in text


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(1, 0)], [0]),
        ([(1, 0), (2, 1), (3, 2)], [0, 1, 2]),
        ([(1, 0), (0.5, 1), (0.9, 0)], [0]),
        ([(1, 0), (2, 3), (2, 1), (2, 1), (3, 1)], [0, 4]),
        ([(3, 5), (1, 0), (2, 5)], [1, 0]),
        ([(2, 1), (2, 1)], [0]),
    ],
)
def test_fronts(points: list[tuple[float, float]], front: list[int]) -> None:
    assert pareto_front(points) == front


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(POINTS)
@settings(deadline=None, max_examples=80)
def test_a_front_beats_all_others_and_nobody_in_it(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] >= b[0] and a[1] <= b[1]

    front = [points[n] for n in pareto_front(points)]
    assert set(front) == {point for point in points if not any(beats(other, point) for other in points)}
    assert front == sorted(set(front)) and [damage for _, damage in front] == sorted(damage for _, damage in front)


@given(st.lists(st.floats(-0.5, 1.5), max_size=15), st.floats(0.001, 0.09))
@settings(deadline=None, max_examples=80)
def test_names_keep_their_order_and_their_distance(values: list[float], gap: float) -> None:
    places = spread(sorted(values), gap, 0.0, 1.0)
    room = min(gap, 1.0 / max(len(values) - 1, 1))
    assert len(places) == len(values) and all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(b - a >= room - 1e-9 for a, b in pairwise(places))


def test_names_with_room_stay_at_their_points() -> None:
    assert spread([0.1, 0.5, 0.9], 0.2, 0.0, 1.0) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5], 0.2, 0.0, 1.0) == pytest.approx([0.4, 0.6])
    assert spread([0.0, 0.0, 0.9], 0.1, 0.0, 1.0) == pytest.approx([0.0, 0.1, 0.9])
    assert spread([0.5] * 3, 0.6, 0.0, 1.0) == [0.0, 0.5, 1.0]


def test_times_stand_beside_the_rows_and_the_front_is_said(
    methods_profile: dict[str, Any], results: Path, tmp_path: Path
) -> None:
    write_block(results, block_record())
    table = load_table(methods_profile, "w4a4", results)
    cells = {
        row["label"]: (row.get("block_ms"), row.get("block_float32"), row.get("block_bfloat16")) for row in table.rows
    }
    assert cells["rtn"] == pytest.approx((40, 2.5, 2)) and cells["q-dit"] == pytest.approx((80, 1.25, 1))
    assert cells["fp"] == (pytest.approx(100), 1.0, None)
    assert cells["mxfp4"] == (SIMULATED_ONLY, None, None)
    assert cells["g4w+p4a"] == cells["svdquant"] == (NOT_MEASURED, None, None)
    found = headline(table)
    facts = " ".join(found.because)
    assert found.text.startswith("At W4A4 in the natural form, the best number is that of RTN")
    assert "On the Pareto front of PSNR-FP and speed: full precision, RTN (2.50 ×, 40.00 dB)." in facts
    assert "Simulated only, so not in the figure: MX float (no kernel multiplies MX blocks)." in facts
    assert "G4W+P4A (a search found its group sizes for the small model only)" in facts
    assert "SVDQuant (the record has no row svdquant at w4a4)" in facts
    assert "bfloat16 is 1.25 times as fast as float32 here; 0 of the 3 timed rows are slower" in facts
    assert "On a GPU: not measured." in facts
    assert table.cover is not None and table.cover.svg != table.cover.narrow_svg
    assert "commit abc123" in " ".join(notes(table).reading)
    paths = {path.suffix: path for path in build_table(methods_profile, "w4a4", results, tmp_path / "w4a4")}
    rows = list(csv.DictReader(paths[".csv"].open()))
    assert rows[1]["block_float32"] == "2.5" and rows[-1]["block_ms"] == SIMULATED_ONLY
    page = paths[".html"].read_text()
    assert page.index('class="cover"') < page.index("At W4A4 in the natural form") < page.index("<table")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_methods_that_the_paper_does_not_have_are_marked(methods_profile: dict[str, Any], results: Path) -> None:
    details = {row["label"]: row["detail"] for row in load_table(methods_profile, "w4a4", results).rows}
    assert details["svdquant"] == details["mxfp4"] == "not in the paper"
    assert not any("not in the paper" in details[label] for label in ("fp", "rtn", "q-dit", "g4w+p4a"))


def test_without_a_record_the_page_says_what_measures_it(methods_profile: dict[str, Any], results: Path) -> None:
    table = load_table(methods_profile, "w4a4", results)
    assert table.cover is None and {row.get("block_ms") for row in table.rows} == {None, NOT_MEASURED}
    assert "Times of a block: not measured; `qdit bench block` measures them." in headline(table).because
    assert notes(table).warnings == ()


def without(content: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """The content without one entry."""
    at: Any = content
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    return content


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        "{}",
        block_record(bench="kernels"),
        block_record(rows=[]),
        block_record(measured=[]),
        without(block_record(), "machine"),
        without(block_record(), "measured", 0, "seconds", "1", "integer"),
        without(block_record(), "measured", 1, "seconds", "1", "float32"),
        without(block_record(), "rows", 0, "options"),
        json.loads(json.dumps(block_record()).replace("0.04", "-1")),
        block_record(load=None),
    ],
)
def test_a_damaged_record_is_one_line_and_no_crash(
    methods_profile: dict[str, Any], results: Path, damaged: Any
) -> None:
    path = write_block(results, damaged)
    table = load_table(methods_profile, "w4a4", results)
    (warning,) = notes(table).warnings
    assert str(path) in warning and "\n" not in warning
    assert {row.get("block_ms") for row in table.rows} == {None, NOT_MEASURED}


def test_a_row_of_other_options_is_not_measured(methods_profile: dict[str, Any], results: Path) -> None:
    content = block_record()
    content["rows"][0]["options"] = {"activation": "dynamic"}
    write_block(results, content)
    row = next(row for row in load_table(methods_profile, "w4a4", results).rows if row["label"] == "rtn")
    assert (row["block_ms"], row["block_why"]) == (NOT_MEASURED, "the record has other options")


def test_a_gpu_has_a_panel_and_columns_of_its_own(methods_profile: dict[str, Any], results: Path) -> None:
    write_block(results, block_record())
    write_block(results, {"bench": "gpu"}, "gpu/a-card.json")
    write_block(results, block_record(device="A card"), "gpu/b-block.json")
    assert measured_blocks(results).problems == ()
    table = load_table(methods_profile, "w4a4", results)
    assert next(row for row in table.rows if row["label"] == "rtn")["block_gpu_float32"] == 2.5
    assert "block_gpu_ms" in table.metrics and "On a GPU: A card." in headline(table).because
    assert table.cover is not None
    assert all(
        text in table.cover.svg for text in ("W4A4, one block on A card", "W4A4, one block on a CPU, one thread")
    )


BUSY, FREE = {"before": 0.1, "after": 2.5}, {"before": 1.9, "after": 2}


@pytest.mark.parametrize(("load", "said"), [(BUSY, True), (FREE, False)])
def test_a_busy_machine_is_said_beside_times_of_two_threads(
    methods_profile: dict[str, Any], results: Path, load: dict[str, float], said: bool
) -> None:
    content = block_record(load=load, threads=[1, 2])
    for form in content["measured"]:
        form["seconds"] |= {"2": form["seconds"]["1"]} if form["seconds"] else {}
    write_block(results, content)
    text = " ".join(notes(load_table(methods_profile, "w4a4", results)).reading)
    assert ("times with two threads are those of a busy machine" in text) == said


def test_the_shipped_record_can_be_read() -> None:
    path = Path(__file__).parents[2] / "results" / "studies" / "bench-block.json"
    times = read_block_times(path)
    assert times.device == "cpu" and times.threads == ("1", "2") and "+" not in times.content["commit"]
