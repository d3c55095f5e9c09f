"""The other tables: comparisons of other papers, variants of methods, and the page of the controls."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from qdit.core.errors import ConfigError
from qdit.core.run import Run
from qdit.report.pages.build import build_table
from qdit.report.pages.table_page import html_text
from qdit.report.render.display import columns
from qdit.report.render.notes import notes
from qdit.report.render.text import latex_text, markdown_text
from qdit.report.tables.comparison import COMPARISONS
from qdit.report.tables.kinds import KINDS, load_table
from qdit.report.tables.qc import CONTROLS
from qdit.workflow.profile import PRINTED_KINDS, load_profile, runs_of
from qdit.workflow.profile_fields import check
from qdit.workflow.profile_models import ProfileModel, TableKind
from qdit.workflow.profile_references import check_kind

FACE = "mini profile: handwritten digits, not ImageNet"
PLAIN, GUIDED = "digits-cfg1.0-s20", "digits-cfg1.5-s20"
NEW = ("table1", "table5", "table6", "transfer", "ptq4dit_table1", "tq_dit_table", "ablations", "differences", "qc")
Profile = dict[str, Any]


def reading(profile: Profile, name: str, results: Path) -> str:
    return " ".join(notes(load_table(profile, name, results)).reading)


def test_kinds_of_profiles_the_program_and_the_published_numbers_agree() -> None:
    assert set(get_args(TableKind)) == set(KINDS)
    assert set(PRINTED_KINDS) == {*COMPARISONS, "table1", "table3", "table4", "table6"}


def test_wide_tables_are_allowed_by_the_models(wide: Profile) -> None:
    profile = load_profile("mini")
    for part in ("settings", "methods", "tables"):
        profile[part] |= wide[part]
    model = check(ProfileModel, profile)
    for name, table in model.tables.items():
        check_kind(model, table, name)


@pytest.mark.parametrize("name", NEW)
def test_every_format_is_whole_and_says_what_it_is(
    wide_results: Path, wide: Profile, tmp_path: Path, name: str
) -> None:
    texts = {path.suffix: path.read_text() for path in build_table(wide, name, wide_results, tmp_path / name)}
    rows = list(csv.DictReader(io.StringIO(texts.pop(".csv"))))
    assert rows and {row["status"] for row in rows} == {"ok"}
    assert all(row["face"] == FACE and row["scope"] for row in rows)
    assert all(text.count(FACE) >= 2 for text in texts.values())
    pipes = [len(re.findall(r"(?<!\\)\|", line)) for line in texts[".md"].splitlines() if line.startswith("|")]
    assert len(set(pipes)) == 1
    assert set(re.findall(r"[^\x00-\x7f]", texts[".tex"])) <= {"é"}
    body = texts[".tex"].split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines()
    cells = {len(re.findall(r"(?<!\\)&", line)) for line in body if line.endswith(r"\\") and "multicolumn" not in line}
    assert len(cells) == 1
    assert "http" not in texts[".html"] and "url(" not in texts[".html"] and texts[".html"].count("<script") == 1


def test_scope_is_a_column_of_every_format(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "ptq4dit_table1", wide_results)
    assert re.search(r"\| W4A8 +\| own +\| PTQ4DiT", markdown_text(table))
    assert re.search(r"^W4A8 & own & PTQ4DiT & ", latex_text(table), flags=re.MULTILINE)
    page = html_text(table, wide_results)
    assert re.search(r'<th class="first bits extra" rowspan="2"[^>]*>Scope</th>', page)
    assert '<small class="inline-bits">W4A8</small>' in page
    assert "Scope own: every method quantizes all layers that its paper quantizes." in page


def test_table5_stands_beside_its_three_rows(wide_results: Path, wide: Profile) -> None:
    frame = load_table(wide, "table5", wide_results).frame
    assert list(frame.published_method) == ["FP", "TFMQ-DM", "Q-DiT"]
    assert list(frame.published_fid) == [5.31, 7.74, 5.34]
    assert list(zip(frame.weight_bits, frame.activation_bits, strict=True)) == [(16, 16), (16, 8), (16, 8)]


def test_the_one_known_cell_of_ptq4dit_stands_in_its_row(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "ptq4dit_table1", wide_results)
    known = table.frame[table.frame.published_fid.notna()]
    assert [(row.setting, row.label, row.weight_bits, row.published_fid) for row in known.itertuples()] == [
        ("digits-cfg1.5-ddpm-s10", "ptq4dit", 4, 9.17)
    ]
    assert [block.title.split(",")[0] for block in table.blocks] == ["50 DDPM steps", "20 DDPM steps", "10 DDPM steps"]
    assert "250 DDPM steps" in table.blocks[0].about
    assert set(table.frame[table.frame.label == "repq-vit"].published_method) == {"RepQ*"}
    assert not table.unmatched


@pytest.mark.parametrize("name", ["ptq4dit_table1", "tq_dit_table"])
def test_blank_published_cells_are_said_to_be_unknown(wide_results: Path, wide: Profile, name: str) -> None:
    assert "Published cells that our copy of the paper lacks stay blank" in reading(wide, name, wide_results)
    assert "our copy of the paper" not in reading(wide, "table2", wide_results)


def test_a_table_without_any_published_number_has_no_paper_column(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "tq_dit_table", wide_results)
    assert {column.source for column in columns(table)} == {"ours", "on disk"}
    assert list(table.frame.published_method.unique()) == ["FP", "Q-Diffusion", "PTQD", "PTQ4DiT", "TQ-DiT"]


def test_methods_that_a_block_leaves_out_are_named(wide_results: Path, wide: Profile) -> None:
    wide["tables"]["ptq4dit_table1"]["blocks"][1]["methods"] = ["fp", "ptq4dit"]
    table = load_table(wide, "ptq4dit_table1", wide_results)
    assert table.unmatched == ("PTQ4DM", "Q-Diffusion", "PTQD", "RepQ*")


def test_variants_are_named_by_what_they_are_and_measured_by_their_base(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "ablations", wide_results)
    rows = [(row["name"], row["key"].bits, row["ratio_fd_fp"]) for row in table.rows]
    texts = ("PTQ4DiT", "without salience balancing", "rounding to nearest instead of learned")
    ratios = (1.0, 1.5, 4.0)
    assert rows == [
        ("FP", "w16a16", None),
        *((text, "w4a8", ratio) for text, ratio in zip(texts, ratios, strict=True)),
        *((text, "w4a4", ratio) for text, ratio in zip(texts, ratios, strict=True)),
    ]
    assert table.metrics == (
        *("fid", "sfid", "is", "precision", "psnr_fp", "fd_fp", "mse_fp", "mind_fp", "ssim_fp", "lpips_fp"),
        *("clip_score", "image_reward", "fd_dino", "fd_dino_fp", "mind", "ratio_fd_fp"),
    )
    assert [column.cell for column in columns(table)] == [
        *("fid", "sfid", "is", "precision", "psnr_fp", "fd_fp", "mse_fp", "ssim_fp", "ratio_fd_fp"),
    ], "metrics that no row has are no columns"
    assert {"base", "about", "ratio_fd_fp"} <= set(table.frame.columns)
    assert table.title == "What the parts of the methods contribute"
    page = html_text(table, wide_results)
    assert "ptq4dit-no-csb" in page and "paper:" not in page and "published" not in page


def test_without_the_base_there_is_no_ratio(wide_results: Path, wide: Profile) -> None:
    (Run(PLAIN, "natural", "ptq4dit", "w4a8", "common").folder(wide_results) / "metrics.json").unlink()
    rows = load_table(wide, "ablations", wide_results).rows
    assert {row["ratio_fd_fp"] for row in rows if row["key"].bits == "w4a8"} == {None}
    assert {row["ratio_fd_fp"] for row in rows if row["key"].bits == "w4a4"} == {1.0, 1.5, 4.0}
    wide["tables"]["ablations"]["blocks"][0]["base"] = "rtn"
    with pytest.raises(ConfigError, match="'rtn' is not among its block's methods"):
        load_table(wide, "ablations", wide_results)


def checks(profile: Profile, results: Path) -> dict[tuple[str, str, str, str, str], str]:
    rows = load_table(profile, "qc", results).rows
    return {(r["setting"], r["form"], r["label"], r["key"].bits, r["scope"]): r["check"] for r in rows}


def test_qc_reads_every_default_run_and_its_controls(wide_results: Path, wide: Profile) -> None:
    found = checks(wide, wide_results)
    assert set(found) == {(r.setting, r.form, r.label, r.bits, r.scope) for r in runs_of(wide, "qc")}
    assert not any("-no-" in label for _, _, label, _, _ in found)  # opt-in tables are none of its business
    table = load_table(wide, "qc", wide_results)
    methods = [row for row in table.rows if row["control"] is None]
    unchecked = [row for row in methods if row["check"] == "no controls"]
    assert {row["setting"] for row in unchecked} == {"digits-cfg1.5-ddpm-s10"}
    inside = len(methods) - len(unchecked)
    assert table.summary == (
        f"{inside} of {len(methods)} rows lie between the controls; {len(unchecked)} without controls.",
        CONTROLS,
    )


def test_qc_says_what_lies_outside_and_what_is_missing(wide_results: Path, wide: Profile) -> None:
    outside = Run(PLAIN, "natural", "q-dit", "w4a4", "common")
    path = outside.folder(wide_results) / "metrics.json"
    path.write_text(path.read_text().replace('"fd_fp": 0.4', '"fd_fp": 400.0'))
    missing = Run(PLAIN, "natural", "g4w+p4a", "w6a8", "common")
    (missing.folder(wide_results) / "metrics.json").unlink()
    refused = Run(PLAIN, "natural", "rtn", "w6a8", "common")
    (refused.folder(wide_results) / "metrics.json").write_text('{"error": "unsupported: rtn cannot <this>"}')
    table = load_table(wide, "qc", wide_results)
    found = checks(wide, wide_results)
    assert found[PLAIN, "natural", "q-dit", "w4a4", "common"] == "✗ FD-FP"
    assert found[PLAIN, "natural", "q-dit", "w4a8", "common"] == "✓"
    assert found[PLAIN, "natural", "g4w+p4a", "w6a8", "common"] == "missing"
    assert found[PLAIN, "natural", "rtn", "w6a8", "common"] == "unsupported"
    assert re.search(r"1 outside of them; 2 missing; \d+ without controls\.", table.summary[0])
    assert any("unsupported: rtn cannot <this>" in warning for warning in notes(table).warnings)
    page = html_text(table, wide_results)
    assert '<span class="bad">✗ FD-FP</span>' in page and '<span class="good">✓</span>' in page
    assert "unsupported: rtn cannot &lt;this&gt;" in page
    assert table.summary[0] in page and table.summary[0] in markdown_text(table)
    assert page.index(table.summary[0]) < page.index("<table")


def test_qc_is_sorted_and_shows_both_controls(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "qc", wide_results)
    assert [block.rows[0]["setting"] for block in table.blocks] == sorted(b.rows[0]["setting"] for b in table.blocks)
    plain = table.blocks[0].rows
    assert (plain[0]["control"], plain[0]["fd_fp"], plain[0]["mse_fp"]) == ("positive", 0.0, 0.0)
    assert (plain[-1]["control"], plain[-1]["key"].bits) == ("negative", "w2a2")
    bits = [(row["weight_bits"], row["activation_bits"]) for row in plain]
    assert bits == sorted(bits, reverse=True)
    assert {row["tables"] for row in plain if row["label"] == "q-dit"} == {"table2"}


def test_qc_without_a_measured_negative_control_checks_nothing(wide_results: Path, wide: Profile) -> None:
    (Run(PLAIN, "natural", "rtn", "w2a2", "common").folder(wide_results) / "metrics.json").unlink()
    table = load_table(wide, "qc", wide_results)
    assert {row["check"] for row in table.blocks[0].rows} == {"control", "no controls"}
    assert table.summary[2] == "1 of the controls is missing too."


def test_reconstruction_is_a_figure_and_a_note(
    wide_results: Path, wide: Profile, log_reconstruction: Callable[..., Profile]
) -> None:
    assert "Reconstruction" not in html_text(load_table(wide, "table5", wide_results), wide_results)
    key = Run(GUIDED, "natural", "tfmq-dm", "w16a8", "common")
    log_reconstruction(wide_results, key)
    table = load_table(wide, "table5", wide_results)
    assert "TFMQ-DM: 500 iterations per block, batch 32." in reading(wide, "table5", wide_results)
    assert list(table.frame.reconstruction_iterations) == [None, 500, None]
    page = html_text(table, wide_results)
    assert page.count("<polyline") == 7 and ">blocks.6</text>" in page
    assert "TFMQ-DM W16A8 · 20 DDIM steps" in page
