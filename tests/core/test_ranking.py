"""The metric that ranks: one for all tables, that of the power study, with a value for samples of full precision."""

import math
from pathlib import Path

import pytest

from qdit.cli.report import leaderboard
from qdit.core.files import read_json
from qdit.core.metrics import METRICS, Page, shown_on
from qdit.core.ranking import (
    damage_of,
    gap_text,
    known_value,
    ranking_metric,
    ranking_value,
    value_text,
    why_it_ranks,
)
from qdit.core.repository import shipped_path

EQUAL = {"psnr_fp": None, "mse_fp": 0.0, "fd_fp": 0.0}
RANKED: tuple[Page, ...] = (
    "paper",
    "table1",
    "table3",
    "table6",
    "integer",
    "variants",
    "transfer",
    "leaderboard",
    "tools",
)


def test_the_power_study_chose_it_and_images_and_clips_have_it() -> None:
    metric = ranking_metric()
    assert metric.name == read_json(shipped_path(Path("results/studies/power.json")))["chosen"]
    assert metric.of == "both" and metric.paired and metric.bounded and metric.board_interval
    assert not math.isnan(metric.perfect) and metric.damage(metric.perfect) < metric.damage(1.0)
    for page in RANKED:
        shown = [name for name in shown_on(page) if METRICS[name].paired]
        assert shown[0] == metric.name and "fd_fp" in shown, page


def test_its_sentences_say_what_it_is_and_why_it_ranks() -> None:
    assert ranking_metric().reading == (
        "PSNR-FP is the peak signal-to-noise ratio of pixels to the full-precision samples of the same noise, in dB"
        " (larger is better)."
    )
    assert ranking_metric().title in str(leaderboard.__doc__), "the help of `qdit leaderboard` names it"
    assert "power study" in why_it_ranks() and "FD-FP" in why_it_ranks()
    assert METRICS["fd_fp"].reading.endswith("samples of the same noise (smaller is better).")


def test_damage_grows_as_the_value_falls_and_equal_samples_have_the_least() -> None:
    rows = [EQUAL, {"psnr_fp": 50.0, "mse_fp": 1e-5}, {"psnr_fp": 20.0, "mse_fp": 1e-2}, {"psnr_fp": None}]
    assert [damage_of(row) for row in rows] == [-math.inf, -50.0, -20.0, math.inf]
    assert [ranking_value(row) for row in rows] == [math.inf, 50.0, 20.0, None]
    assert [value_text(row) for row in rows[:3]] == ["equal to full precision", "50.00 dB", "20.00 dB"]
    assert value_text(EQUAL, unit=False) == "equal" and value_text(rows[1], unit=False) == "50.00"
    assert known_value(EQUAL, METRICS["fd_fp"]) == 0.0
    assert known_value({"mse_fp": 0.0}, METRICS["fd_fp"]) is None, "a finite perfect value is a number of the run"


@pytest.mark.parametrize(
    ("metric", "value", "other", "text"),
    [
        ("fd_fp", 0.05, 0.02, "2.50 times as large"),
        ("fd_fp", 50.0, 0.02, "2500 times as large"),
        ("fd_fp", 0.05, 0.0, "0.0500 higher"),
        ("fd_fp", 0.0, 0.0, "equal"),
        ("psnr_fp", 38.5, 40.0, "1.50 dB lower"),
        ("psnr_fp", 41.25, 40.0, "1.25 dB higher"),
        ("psnr_fp", 40.001, 40.0, "equal"),
        ("ssim_fp", 0.9, 0.95, "0.0500 lower"),
    ],
)
def test_gaps_are_ratios_of_distances_and_differences_of_decibels(
    metric: str, value: float, other: float, text: str
) -> None:
    assert gap_text(METRICS[metric], value, other) == text
