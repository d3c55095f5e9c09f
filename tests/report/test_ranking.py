"""A row whose samples equal full precision's ranks first everywhere, and no page says inf or nan."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.intervals import Resamples, write_resamples
from qdit.core.run import Run
from qdit.report.data.multiplicity import Separation
from qdit.report.data.standings import BEST, standings
from qdit.report.pages.build import build_table
from qdit.report.pages.leaderboard import leaderboard
from qdit.report.pages.pairs import BETTER, SELF, rankings
from qdit.report.render.display import best_cells, columns, lines
from qdit.report.render.figure import PANEL, axis, dot_plot
from qdit.report.render.headline import headline
from qdit.report.tables.kinds import load_table
from tests.report.conftest import psnr

PLAIN = "digits-cfg1.0-s20"


def key_of(label: str) -> Run:
    return Run(PLAIN, "natural", label, "w4a8", "common")


def as_full_precision(record: dict[str, Any]) -> None:
    record["metrics"].update(psnr_fp=None, mse_fp=0.0, fd_fp=0.0, ssim_fp=1.0)


@pytest.fixture
def with_equal(results: Path, change_record: Callable[..., None]) -> Path:
    """Results in which `rtn` at W4A8 changes no sample; the other rows have intervals."""
    change_record(key_of("rtn"), as_full_precision)
    for label in ("g4w+p4a", "q-dit"):
        drawn = psnr(key_of(label)) + 0.1 * np.random.default_rng(len(label)).standard_normal(200)
        write_resamples(key_of(label).folder(results), Resamples({"psnr_fp": drawn}, "200x1024"))
    return results


def test_it_is_best_in_the_headline_the_ranks_and_the_table(with_equal: Path, profile: dict[str, Any]) -> None:
    table = load_table(profile, "table2", with_equal)
    text = headline(table).text
    assert text.startswith(
        "At W4A8, RTN is best (PSNR-FP equal to full precision), ahead of Q-DiT (45.23 dB) by more than chance"
    )
    block = table.blocks[0]
    number = next(n for n, row in enumerate(block.rows) if row["label"] == "rtn" and row["weight_bits"] == 4)
    standing = standings(block)[number]
    assert standing is not None and standing.verdict == BEST
    assert (number, "psnr_fp") in best_cells(block)
    line, shown = lines(table, block, columns(table))[number], columns(table)
    cell = next(cell for cell, column in zip(line.cells, shown, strict=True) if column.cell == "psnr_fp")
    assert cell.text == "equal" and cell.best and not cell.tied
    ranks = {row["label"]: row["rank"] for row in leaderboard(profile, with_equal).rows if row["key"] == key_of("rtn")}
    assert ranks == {"rtn": "1"}


def test_its_pairs_are_certain_and_its_dot_is_a_word(with_equal: Path, profile: dict[str, Any]) -> None:
    table = load_table(profile, "table2", with_equal)
    (ranking,) = [of for of in rankings(table) if of.title == f"W4A8, {PLAIN}, natural form"]
    first = ranking.ranked[0]
    assert (first.name, first.rank, first.value) == ("RTN", "1", "equal")
    assert [mark.sign for mark in first.marks] == [SELF, BETTER, BETTER] and ranking.first_is_certain
    assert first.marks[1].about == "RTN is equal to full precision"
    plot = dot_plot(table.blocks[0], axis(table.rows), PANEL)  # type: ignore[arg-type]
    assert (
        ">equal<" in plot and "PSNR-FP by method at W4A8, from the least damage to the most: RTN equal to full" in plot
    )


def test_no_file_has_a_number_that_is_none(with_equal: Path, profile: dict[str, Any], tmp_path: Path) -> None:
    texts = {path.suffix: path.read_text() for path in build_table(profile, "table2", with_equal, tmp_path / "t")}
    for suffix, text in texts.items():
        words = re.sub(r'"data:[^"]*"', "", text) if suffix == ".html" else text
        assert not re.search(r"(?<![a-z])(inf|nan|Infinity)(?![a-z])", words), suffix
    assert "**equal**" in texts[".md"] and r"\textbf{equal}" in texts[".tex"] and "<b>equal</b>" in texts[".html"]
    note = "“equal”: all samples of the row are those of full precision"
    assert note in texts[".md"] and note in texts[".html"]


def test_without_such_a_row_no_note_explains_the_word(built: dict[str, str]) -> None:
    assert "“equal”" not in built["table2.md"]


def test_two_rows_that_equal_full_precision_are_not_apart() -> None:
    equal = {"psnr_fp": None, "mse_fp": 0.0}
    rows = [dict(equal), dict(equal), {"psnr_fp": 40.0, "mse_fp": 1e-4}, {"psnr_fp": None, "mse_fp": None}]
    separation = Separation(rows, "psnr_fp")
    assert [separation.apart(rows[0], row) for row in rows[1:]] == [False, True, False]
    assert separation.apart(rows[2], rows[0]) and separation.comparisons == 0


@pytest.mark.parametrize("name", ["table2", "table4"])
def test_one_entry_of_the_registry_moves_all_ranks(
    results: Path, profile: dict[str, Any], by_distance: None, name: str
) -> None:
    table = load_table(profile, name, results)
    assert "FD-FP 0.0300" in headline(table).text or name == "table4"
    assert any("FD-FP is the Fréchet distance" in line for line in headline(table).because)
    assert any(line.startswith("Rows are ranked by FD-FP: ") for line in headline(table).because)
    board = [row for row in leaderboard(profile, results).rows if row["key"].bits == "w4a8" and row["setting"] == PLAIN]
    natural = [row["fd_fp"] for row in board if row["form"] == "natural"]
    assert natural == sorted(natural)
