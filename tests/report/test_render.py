"""The four formats: all of them say what they are, escape what they must, and are the same bytes every time."""

import csv
import html.parser
import io
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qdit.core.files import load_arrays, save_arrays
from qdit.core.run import Run
from qdit.report.pages.build import build_table
from qdit.report.pages.table_page import html_text
from qdit.report.render.display import columns
from qdit.report.render.figure import PANEL, RADIUS, WIDE, Axis, axis, dot_plot, plot_of
from qdit.report.render.fragments import hero_html
from qdit.report.render.marks import outline_of
from qdit.report.render.sheets import AMPLIFICATION, contact_sheet, difference, strip_image
from qdit.report.render.text import tex, tex_number
from qdit.report.tables.kinds import load_table
from tests.report.conftest import psnr
from tests.report.reading import Reading

FACE = "mini profile: handwritten digits, not ImageNet"
MISSING = Run("digits-cfg1.0-s20", "natural", "g4w+p4a", "w4a8", "common")


def test_four_files_per_table(built: dict[str, str]) -> None:
    assert set(built) == {
        f"{table}.{suffix}" for table in ("table2", "table4") for suffix in ("csv", "md", "tex", "html")
    }


@pytest.mark.parametrize("table", ["table2", "table4"])
def test_every_format_says_what_it_is(built: dict[str, str], table: str) -> None:
    """Pages say it before the numbers and again behind them; the CSV in every row."""
    for suffix, first_number in (("md", "Size (MB)"), ("tex", "Size (MB)"), ("html", "Size (MB)")):
        before, after = built[f"{table}.{suffix}"].split(first_number, 1)
        assert FACE in before and FACE in after
    rows = list(csv.DictReader(io.StringIO(built[f"{table}.csv"])))
    assert rows and all(row["face"] == FACE for row in rows)


@pytest.mark.parametrize("suffix", ["csv", "md", "tex", "html"])
def test_missing_runs_and_fitted_rows_are_visible(built: dict[str, str], suffix: str) -> None:
    assert "missing: no metrics.json" in built[f"table2.{suffix}"]
    assert "fitted" in built[f"table4.{suffix}"] and "fitted" not in built["table2.md"]
    assert "not run" in built[f"table4.{suffix}"]


@pytest.mark.parametrize("suffix", ["md", "tex", "html"])
def test_footer_names_protocol_and_versions(built: dict[str, str], suffix: str) -> None:
    text = built[f"table2.{suffix}"]
    for fact in ("20 DDIM steps", "1024 images in chunks of 64", "seed 0", "127.5 x + 128", "torch 2.15.0", "simulate"):
        assert fact in text, fact
    assert "e" * 12 in text and "e" * 13 not in text  # the evaluator's digest, shortened


def test_csv_reads_back_with_blanks_for_unknown(built: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(built["table2.csv"])))
    rtn = next(row for row in rows if row["label"] == "rtn" and row["weight_bits"] == "4")
    assert float(rtn["fid"]) == 2.3 and rtn["published_fid"] == "" and rtn["published_is"] == ""
    missing = next(row for row in rows if row["status"] != "ok")
    assert missing["fid"] == "" and missing["published_fid"] == "25.48"


def test_two_builds_are_the_same_bytes(results: Path, profile: dict[str, Any], tmp_path: Path) -> None:
    for table in ("table2", "table4"):
        first = [path.read_bytes() for path in build_table(profile, table, results, tmp_path / "a" / table)]
        moved = tmp_path / "elsewhere" / "mini"
        if not moved.exists():
            shutil.copytree(results, moved)
        second = [path.read_bytes() for path in build_table(profile, table, moved, tmp_path / "b" / table)]
        assert first == second


def test_markdown_has_one_table_per_block_with_whole_rows(built: dict[str, str]) -> None:
    lines = [line for line in built["table2.md"].splitlines() if line.startswith("|")]
    assert len(lines) == (7 + 7 + 4) + 3 * 2  # rows, and a header and a rule for each block
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert re.search(
        r"\| W4A8 +\| common +\| Q-DiT, group size 16 .*\*\*2\.03\*\* \(\+0\.03\) \| +6\.40 \(\+1\.09\) \|",
        built["table2.md"],
    )


def test_latex_rows_have_as_many_cells_as_columns(built: dict[str, str]) -> None:
    for name in ("table2.tex", "table4.tex"):
        text = built[name]
        assert r"\toprule" in text and r"\bottomrule" in text
        count = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])  # type: ignore[index]
        body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines()
        rows = [line for line in body if line.endswith(r"\\") and r"\multicolumn" not in line]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == count - 1 for row in rows)
        assert text.isascii() or set(re.findall(r"[^\x00-\x7f]", text)) == {"é"}


def test_latex_escapes() -> None:
    assert tex(r"a_b & 50% {x} #1 $2 ~ ^ \y") == (
        r"a\_b \& 50\% \{x\} \#1 \$2 \textasciitilde{} \textasciicircum{} \textbackslash{}y"
    )
    assert tex_number("9.80e-4") == r"$9.80\cdot10^{-4}$"
    assert tex_number("-0.05") == "$-0.05$" and tex_number("±0.00") == r"$\pm 0.00$"
    assert tex_number("–") == "--"


def test_markup_in_a_reason_stays_text(results: Path, profile: dict[str, Any], change_record: Callable) -> None:
    change_record(MISSING, lambda record: record.update(error="<script>alert(1)</script> | 50% of a_b"))
    table = load_table(profile, "table2", results)
    page = html_text(table, results)
    assert "<script>alert" not in page and "&lt;script&gt;" in page


class Page(html.parser.HTMLParser):
    """Collects tags and everything that could be loaded from outside."""

    VOID = ("meta", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_whole_and_self_contained(built: dict[str, str]) -> None:
    for name in ("table2.html", "table4.html"):
        page = Page()
        page.feed(built[name])
        assert page.open == []
        assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
        assert not {"link", "iframe"} & set(page.counts) and page.counts["script"] == 1
        assert "http" not in built[name] and "url(" not in built[name] and "@import" not in built[name]
        assert "prefers-color-scheme: dark" in built[name] and "width=device-width" in built[name]


def test_html_shows_a_strip_and_a_difference_per_row(built: dict[str, str]) -> None:
    page = Page()
    page.feed(built["table2.html"])
    rows, full, missing = 18, 3, 1
    first = 2 * 4 - 1  # full precision and three methods of the guided block at W4A8: the first block lacks one
    assert page.counts["img"] == 2 * (rows - missing) - full + first
    assert built["table2.html"].count("no samples") == missing
    assert page.counts["svg"] == 3 + 2  # one of each block, and the first one of the page for a desktop and a phone


def test_strips_show_the_samples_of_the_run(results: Path, profile: dict[str, Any]) -> None:
    block = load_table(profile, "table2", results).blocks[1]
    sheet = contact_sheet(block, results)
    assert [strip.row["label"] for strip in sheet.strips] == [row["label"] for row in block.rows]
    assert sheet.labels == tuple(index % 10 for index in range(24))
    worst = next(n for n, row in enumerate(block.rows) if row["label"] == "rtn" and row["weight_bits"] == 4)
    pixels = np.asarray(Image.open(io.BytesIO(sheet.strips[worst].samples or b"")))
    images = load_arrays(block.rows[worst]["key"].folder(results) / "samples" / "00000.npz")["images"]
    step, edge = sheet.tile + sheet.gap, sheet.tile // 8
    for index in (0, 7, 23):
        tile = pixels[edge // 2 :: edge, index * step + edge // 2 : index * step + sheet.tile : edge, 0]
        np.testing.assert_array_equal(tile, images[index, 0])


def test_difference_is_amplified_clipped_and_needs_pairs(results: Path, profile: dict[str, Any]) -> None:
    full = np.full((1, 1, 8, 8), 100, np.uint8)
    other = full.copy()
    other[0, 0, 0, :3] = (99, 101, 250)
    shown = difference(other, full)[0, 0, 0]
    assert list(shown[:4]) == [AMPLIFICATION, AMPLIFICATION, 255, 0]
    key = Run("digits-cfg1.5-s20", "natural", "q-dit", "w4a8", "common")
    path = key.folder(results) / "samples" / "00000.npz"
    arrays = load_arrays(path)
    save_arrays(path, arrays | {"labels": arrays["labels"][::-1]})
    sheet = contact_sheet(load_table(profile, "table2", results).blocks[1], results)
    unpaired = [strip for strip in sheet.strips if strip.difference is None]
    assert [strip.row["label"] for strip in unpaired] == ["fp", "q-dit"] and "same labels" in unpaired[1].note


def test_colour_images_become_thumbnails() -> None:
    images = np.zeros((2, 3, 256, 256), np.uint8)
    images[1, 2] = 200
    strip = np.asarray(strip_image(images, tile=120))
    assert strip.shape == (120, 242, 4)
    assert list(strip[60, 60]) == [0, 0, 0, 255] and list(strip[60, 180]) == [0, 0, 200, 255]
    assert strip[60, 121, 3] == 0


def test_distances_lie_on_a_logarithmic_axis(results: Path, profile: dict[str, Any], by_distance: None) -> None:
    table = load_table(profile, "table2", results)
    shared = axis(table.rows)
    assert shared == Axis(-3, 1, logarithmic=True)  # FD-FP from 0.002 to 4
    assert shared.ticks(9) == pytest.approx([1e-3, 1e-2, 0.1, 1, 10]) and shared.ticks(3) == pytest.approx(
        [1e-3, 0.1, 10]
    )
    assert "FD-FP of each method with its 95 % interval, logarithmic; left is better" in hero_html(table)
    assert shared.share(1e-3) == 0 and shared.share(10) == 1 and math.isclose(shared.share(0.1), 0.5)
    assert shared.share(0) == 0 and shared.share(1e9) == 1


def test_the_ends_of_an_axis_are_multiples_of_a_round_step() -> None:
    rows = [{"psnr_fp": value} for value in (37.2, 44.9)]
    assert axis(rows) == Axis(36, 46, 2) and axis(rows).ticks(99) == [36, 38, 40, 42, 44, 46]  # type: ignore[union-attr]
    assert axis(rows).ticks(3) == [36, 40, 44]  # type: ignore[union-attr]
    assert axis(rows[:1]) == Axis(37, 38, 1) and axis([]) is None
    assert axis([{"psnr_fp": 40.0}]) == Axis(40, 41, 1)


def test_marks_lie_on_a_linear_axis_one_line_a_method_one_look_a_bits(results: Path, profile: dict[str, Any]) -> None:
    table = load_table(profile, "table2", results)
    shared = axis(table.rows)
    assert shared == Axis(20, 60, 10)  # PSNR-FP from 24 to 57 dB
    assert shared.share(20) == 0 and shared.share(60) == 1 and math.isclose(shared.share(30), 0.25)
    assert shared.share(0) == 0 and shared.share(1e9) == 1
    assert "PSNR-FP (dB) of each method with its 95 % interval; right is better" in hero_html(table)
    picture = dot_plot(table.blocks[0], shared, WIDE)
    names = re.findall(r'<text class="name"[^>]*>([^<]*)<', picture)
    assert names == ["Q-DiT", "G4W+P4A", "RTN"]  # the least damage at W4A8 first
    marks = re.findall(r'<path class="dot (bits\d)" transform="translate\(([\d.]+),([\d.]+)\)" d="([^"]+)"', picture)
    dots = [(look, x, y) for look, x, y, outline in marks if outline == outline_of(int(look[-1]), RADIUS)]
    heights = sorted({float(y) for _, _, y in dots})
    assert [sum(float(y) == height for _, _, y in dots) for height in heights] == [2, 2, 2]
    keys = [
        Run("digits-cfg1.0-s20", "natural", label, bits, "common")
        for bits in ("w4a8", "w6a8")
        for label in ("q-dit", "g4w+p4a", "rtn")
    ]
    values = {"bits0": [psnr(key) for key in keys[:3]], "bits1": [psnr(key) for key in keys[3:]]}
    left, right = 80.0, WIDE.width - WIDE.right(printed=True)
    for look, expected in values.items():
        found = [float(x) for colour, x, _ in dots if colour == look]
        pixels = [left + RADIUS + shared.share(value) * (right - left - 2 * RADIUS) for value in expected]
        assert found == pytest.approx(pixels, abs=0.06)


def test_ranks_stand_beside_the_picture_and_those_that_differ_stand_out(
    results: Path, profile: dict[str, Any], change_record: Callable
) -> None:
    key = Run("digits-cfg1.0-s20", "natural", "q-dit", "w4a8", "common")
    change_record(key, lambda record: record["metrics"].update(psnr_fp=37.0))
    block = load_table(profile, "table2", results).blocks[0]
    plot = plot_of(block)
    assert plot is not None and [name for name, _ in plot.lines] == ["G4W+P4A", "Q-DiT", "RTN"]
    assert [(s.rank, s.paper_rank, s.moved) for s in plot.standings if s] == [(1, 2, -1), (2, 1, 1), (None, None, None)]
    picture = dot_plot(block, axis(block.rows), PANEL)  # type: ignore[arg-type]
    assert re.findall(r'class="number paper differs"[^>]*>(\d)<', picture) == ["2", "1"]
    page = html_text(load_table(profile, "table2", results), results)
    assert ">▲1</td>" in page and ">▼1</td>" in page


def test_a_row_has_its_interval_in_the_picture(results: Path, profile: dict[str, Any], change_record: Callable) -> None:
    key = Run("digits-cfg1.0-s20", "natural", "rtn", "w4a8", "common")
    change_record(key, lambda record: record.update(intervals={"psnr_fp": [34.0, 36.0]}))
    block = load_table(profile, "table2", results).blocks[0]
    shared = axis(block.rows)
    assert shared is not None
    ranges = re.findall(r'<line class="range bits0" x1="([\d.]+)" x2="([\d.]+)"', dot_plot(block, shared, WIDE))
    left, right = 80.0, WIDE.width - WIDE.right(printed=True)
    ends = [left + RADIUS + shared.share(value) * (right - left - 2 * RADIUS) for value in (34.0, 36.0)]
    assert [float(x) for x in ranges[0]] == pytest.approx(ends, abs=0.06) and len(ranges) == 1


@pytest.mark.parametrize("name", ["table2.html", "table4.html"])
def test_every_table_has_a_caption_and_every_picture_has_words(built: dict[str, str], name: str) -> None:
    page = Reading(built[name])
    assert page.tables and all(page.tables)
    assert len(page.pictures) > 10 and all(page.pictures)
    assert "Samples of full precision" in page.pictures and "Samples of RTN at W4A8" in page.pictures


def test_the_picture_says_which_rows_and_what_the_bits_are(built: dict[str, str]) -> None:
    (caption,) = re.findall(r'<figure class="plot"><figcaption>(.*?)</figcaption>', built["table2.html"])
    assert caption.startswith("PSNR-FP (dB) of each method with its 95 % interval; right is better. ")
    assert "20 DDIM steps, guidance (cfg) 1.5 · W6A8, W4A8 · natural form." in caption
    assert "W4A8: weights with 4 bits, activations with 8 bits." in caption
    assert "W4A8: weights with 4 bits, activations with 8 bits. W16A16 is full precision" in built["table4.md"]
    assert "Salient form: a stress test" in built["table4.md"] and "Salient form" not in built["table2.md"]


def test_headings_have_units_and_a_column_without_any_number_is_left_out(
    results: Path, profile: dict[str, Any], change_record: Callable
) -> None:
    key = Run("digits-cfg1.5-s20", "natural", "q-dit", "w4a8", "common")
    assert "PSNR-FP (dB) ↑" in {column.heading for column in columns(load_table(profile, "table2", results))}
    optional = {"lpips_fp", "clip_score", "fd_dino"}
    assert not optional & {column.metric for column in columns(load_table(profile, "table2", results))}
    change_record(key, lambda record: record["metrics"].update(lpips_fp=0.25))
    shown = [column.cell for column in columns(load_table(profile, "table2", results))]
    assert optional & set(shown) == {"lpips_fp"}, "one row has a number of it"
    shutil.rmtree(results / "runs")
    nothing = {column.metric for column in columns(load_table(profile, "table2", results))}
    assert optional <= nothing, "nothing is measured yet, so no column is known to stay blank"
