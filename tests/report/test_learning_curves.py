"""The figure of learned rounding: points where they belong, names that do not touch, no damage that crashes."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdit.core.run import Run
from qdit.quant.folder import with_digest
from qdit.report.data.checkpoint_log import CheckpointLog, read_log
from qdit.report.data.learning_curves import HEIGHT, LINE, TOP, Axes, axes, panel, reconstruction_of, spread

KEY = Run("digits-cfg1.0-s20", "natural", "tfmq-dm", "w4a8", "common")
Write = Callable[..., dict[str, Any]]


def test_lines_go_through_the_logged_points(tmp_path: Path, log_reconstruction: Write) -> None:
    written = log_reconstruction(tmp_path, KEY, units=3)["reconstruction"]
    log = reconstruction_of(read_log(KEY.folder(tmp_path)).values)
    assert log is not None and (log.iterations, log.batch, len(log.units)) == (500, 32, 3)
    shared = axes([log])
    assert shared == Axes(500, -4, -2, HEIGHT)
    assert (shared.y(1e-2), shared.y(1e-4)) == (TOP, TOP + HEIGHT)
    lines = re.findall(r'<polyline points="([^"]*)"', panel(log, shared, "a < b"))
    for line, unit in zip(lines, written["units"], strict=True):
        points = [tuple(map(float, point.split(","))) for point in line.split()]
        expected = [(shared.x(iteration), shared.y(loss)) for iteration, loss in unit["points"]]
        assert points == [pytest.approx(point, abs=0.051) for point in expected]
    assert "a &lt; b" in panel(log, shared, "a < b")


@given(st.lists(st.floats(TOP, TOP + HEIGHT), min_size=1, max_size=11))
def test_names_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    placed = spread(wanted, TOP, TOP + HEIGHT)
    ordered = sorted(placed)
    assert all(b - a >= LINE - 1e-9 for a, b in pairwise(ordered))
    assert ordered[0] >= TOP - 1e-9 and ordered[-1] <= TOP + HEIGHT + 1e-9
    ranks = sorted(range(len(wanted)), key=lambda n: wanted[n])
    assert [placed[n] for n in ranks] == ordered


def test_many_blocks_make_the_panel_higher(tmp_path: Path, log_reconstruction: Write) -> None:
    log_reconstruction(tmp_path, KEY, units=28)
    log = reconstruction_of(read_log(KEY.folder(tmp_path)).values)
    assert log is not None
    shared = axes([log])
    assert shared is not None and shared.height == 28 * LINE


@pytest.mark.parametrize("log", [{}, {"reconstruction": []}, {"reconstruction": {"units": 1}}, [], None])
def test_without_a_log_there_is_nothing(tmp_path: Path, log: Any) -> None:
    assert read_log(KEY.folder(tmp_path)) == CheckpointLog()
    path = KEY.folder(tmp_path) / "checkpoint" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(with_digest({"log": log})))
    logged = read_log(KEY.folder(tmp_path))
    assert logged.problem is None and reconstruction_of(logged.values) is None and logged.silent_layers == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"log": NaN, "sha256": "0"}', '{"log": {}, "sha256": "0"}'])
def test_a_damaged_or_edited_log_is_told(tmp_path: Path, text: str) -> None:
    path = KEY.folder(tmp_path) / "checkpoint" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    logged = read_log(KEY.folder(tmp_path))
    assert logged.values == {} and logged.problem and logged.problem.startswith(f"{path}: ")
    assert logged.problem.endswith(("quantize again", "make the file again"))


def test_losses_that_no_logarithmic_axis_can_show_are_left_out() -> None:
    points = [[0, 0.5], [25, 0.0], [50, float("nan")], [75, float("inf")], [100, 0.25]]
    units = [
        {"name": "blocks.0", "points": points},
        {"name": "blocks.1", "points": [[0, 0.0]], "before": 0, "after": 0},
    ]
    log = reconstruction_of({"reconstruction": {"iterations": 100, "batch": 4, "units": units}})
    assert log is not None and log.losses == [0.5, 0.25]
    shared = axes([log])
    assert shared is not None
    page = panel(log, shared, "x")
    assert page.count("<polyline") == 1 and "nan" not in page and "inf" not in page
    assert axes([]) is None


def test_long_names_have_room_beside_the_axis() -> None:
    def width(name: str) -> float:
        units = [{"name": name, "points": [[0, 0.5], [25, 0.25]]}]
        log = reconstruction_of({"reconstruction": {"iterations": 25, "batch": 4, "units": units}})
        assert log is not None
        shared = axes([log])
        assert shared is not None
        picture = panel(log, shared, "x")
        left_edge = float(re.search(rf'<text x="([\d.]+)" y="[\d.]+">{re.escape(name)}<', picture)[1])  # type: ignore[index]
        return float(re.search(r'viewBox="0 0 ([\d.]+) ', picture)[1]) - left_edge  # type: ignore[index]

    assert width("blocks.0") >= 8 * 6.5
    assert width("t_embedder.mlp.2") >= 16 * 6.5 and width("transformer_blocks.12.attn") >= 26 * 6.5
