"""The sentence at the top of a page: it names the best, says what cannot be told, and counts the paper's order."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.run import Run
from qdit.report.data.rows import samples_word
from qdit.report.data.standings import BEST, FIRST, TIED, WORSE, contests, standings
from qdit.report.pages.build import build_table
from qdit.report.pages.leaderboard import board_headline, leaderboard
from qdit.report.render.headline import deciding, headline, progress_text
from qdit.report.tables.kinds import load_table
from tests.report.conftest import all_keys, psnr

PLAIN = "digits-cfg1.0-s20"


def with_intervals(results: Path, profile: dict[str, Any], spread: float) -> None:
    """Give every run of the first block at W4A8 resampled values of PSNR-FP (dB), independent of each other."""
    for number, label in enumerate(("rtn", "g4w+p4a", "q-dit")):
        key = Run(PLAIN, "natural", label, "w4a8", "common")  # 35.2, 38.2 and 45.2 dB
        drawn = psnr(key) + spread * np.random.default_rng(number).standard_normal(400)
        write_resamples(key.folder(results), Resamples({"psnr_fp": drawn}, "400x1024"))


def test_it_names_the_best_and_says_that_the_order_holds(results: Path, profile: dict[str, Any]) -> None:
    with_intervals(results, profile, 0.02)
    assert headline(load_table(profile, "table2", results)).text == (
        "At W4A8, Q-DiT is best (PSNR-FP 45.23 dB), ahead of G4W+P4A (38.24 dB) by more than chance,"
        " and the paper’s order of 2 methods holds (Spearman 1.00)."
    )


def test_what_chance_explains_cannot_be_told(results: Path, profile: dict[str, Any]) -> None:
    with_intervals(results, profile, 2.75)
    table = load_table(profile, "table2", results)
    text = headline(table).text
    assert "Q-DiT measures best" in text and "chance can explain its distance to G4W+P4A" in text
    assert "the paper’s order holds for 0 of 1 pairs; none is reversed, 1 cannot be told" in text
    verdicts = {
        row["label"]: standing.verdict
        for row, standing in zip(table.blocks[0].rows, standings(table.blocks[0]), strict=True)
        if standing and row["weight_bits"] == 4
    }
    assert verdicts == {"rtn": WORSE, "g4w+p4a": TIED, "q-dit": FIRST}


def test_without_intervals_it_says_that_the_number_alone_decides(results: Path, profile: dict[str, Any]) -> None:
    table = load_table(profile, "table2", results)
    assert "ahead of G4W+P4A (38.24 dB) by its number alone, without an interval" in headline(table).text
    first = contests(table.blocks[0])[1]
    assert first.bits == "W4A8" and first.standing(first.first).verdict == BEST


def test_a_reversed_order_is_counted_and_named(results: Path, profile: dict[str, Any], change_record: Callable) -> None:
    key = Run(PLAIN, "natural", "q-dit", "w4a8", "common")
    change_record(key, lambda record: record["metrics"].update(psnr_fp=37.0))
    found = headline(load_table(profile, "table2", results))
    assert "G4W+P4A is best" in found.text and "holds for 0 of 1 pairs; 1 is reversed (Spearman -1.00)" in found.text
    assert "Reversed: G4W+P4A is better here than Q-DiT." in found.because


def test_spearman_of_ties_is_that_of_mean_ranks(results: Path, profile: dict[str, Any]) -> None:
    contest = deciding(load_table(profile, "table2", results))
    assert contest is not None
    for row, paper, ours in zip(contest.rows, (1.0, 2.0, 2.0), (40.0, 20.0, 30.0), strict=True):
        row |= {"published_fid": paper, "psnr_fp": ours}
    agreement = contest.agreement()
    assert agreement is not None and agreement.spearman == pytest.approx(0.8660254)  # scipy.stats.spearmanr
    assert agreement.pairs == 2  # the paper does not order the third pair


def test_a_partial_page_shows_what_is_there_and_counts_the_rest(
    results: Path, profile: dict[str, Any], tmp_path: Path
) -> None:
    kept = ("fp", "rtn", "q-dit")
    for key in all_keys(profile):
        if key.setting != PLAIN or key.bits not in ("w16a16", "w4a8") or key.label not in kept:
            shutil.rmtree(key.folder(results), ignore_errors=True)
    wanted = len(load_table(profile, "table2", results).rows)
    texts = {
        path.suffix: path.read_text() for path in build_table(profile, "table2", results, tmp_path / "t", partial=True)
    }
    for suffix in (".html", ".md"):
        assert f"4 of {wanted} rows so far" in texts[suffix]  # full precision stands in two blocks
        assert "missing: no metrics.json" not in texts[suffix]
    assert '<meta http-equiv="refresh" content="30">' in texts[".html"]
    whole = build_table(profile, "table2", results, tmp_path / "w")[-1].read_text()
    assert f"4 of {wanted} rows so far" in whole and "http-equiv" not in whole


def test_a_partial_page_of_nothing_is_refused(results: Path, profile: dict[str, Any], tmp_path: Path) -> None:
    shutil.rmtree(results / "runs")
    assert headline(load_table(profile, "table2", results)).text == "No row of this table is measured yet."
    with pytest.raises(DataError, match="none of its 18 rows has a result"):
        build_table(profile, "table2", results, tmp_path / "t", partial=True)


def test_variants_are_counted_against_their_method(wide_results: Path, wide: dict[str, Any]) -> None:
    text = headline(load_table(wide, "ablations", wide_results)).text
    assert text == "Of 4 variants, 4 do more damage than their method and 0 less; 0 cannot be told."


def test_the_leaderboard_counts_first_places_and_gives_names_people_read(
    wide_results: Path, wide: dict[str, Any]
) -> None:
    wide["methods"]["ptq4dit-no-reconstruction"]["about"] = "PTQ4DiT, rounded to nearest"
    board = leaderboard(wide, wide_results)
    assert "least damage in" in board_headline(board).text.replace(" does the", "").replace("the least", "least")
    names = {row["label"]: row["name"] for row in board.rows}
    assert names["rtn-g16-dynamic"] == "RTN, groups of 16, dynamic"
    assert names["ptq4dit-no-csb"] == "PTQ4DiT: without salience balancing" and names["q-dit"] == "Q-DiT"
    assert names["ptq4dit-no-reconstruction"] == "PTQ4DiT, rounded to nearest", "no name stands twice"
    assert progress_text(board) == ""


def test_samples_are_named_by_the_rows() -> None:
    """The leaderboard has rows of images and rows of clips; each block is named by its own rows."""
    images, clips, absent = {"images": 512, "prompts": None}, {"images": 126, "prompts": 63}, {"images": None}
    assert samples_word([images, absent]) == "image" and samples_word([clips, absent]) == "clip"
    assert samples_word([images, clips]) == "sample" and samples_word([absent]) == "image"
