"""Layout of Tables 2 and 4: the paper's rows and columns, ours beside them, differences, marks, column contract."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qdit.core.errors import ConfigError
from qdit.core.number_text import significant
from qdit.core.run import Run
from qdit.report.data.published import REPOSITORY_COPY, read_published
from qdit.report.data.rows import Block, group_text
from qdit.report.render.display import best_cells, columns
from qdit.report.render.notes import notes
from qdit.report.tables.kinds import load_table
from qdit.workflow.profile import load_profile
from tests.report.conftest import of_another_protocol

LEADING = ["setting", "form", "method", "weight_bits", "activation_bits", "scope", "fid", "sfid", "is", "precision"]
LEADING += ["fd_fp", "mse_fp", "psnr_fp", "size_mb"]
REQUIRED = ["label", "recall", "class_accuracy", "size_actual_mb", "difference_fid", "protocol_sha256", "evaluator"]
REQUIRED += ["mode", "backend", "calibration_sha256", "allocation_sha256", "code_quantize", "packages", "seed"]
REQUIRED += ["fitted", "status", "sampler"]


@pytest.mark.parametrize("name", ["table2", "table4"])
def test_columns_keep_the_contract(results: Path, profile: dict[str, Any], name: str) -> None:
    names = list(load_table(profile, name, results).frame.columns)
    assert names[: len(LEADING)] == LEADING
    published = [column.startswith("published_") for column in names[len(LEADING) :]]
    count = sum(published)
    assert count >= 5 and all(published[:count])  # one unbroken run right after the leading columns
    assert set(REQUIRED) <= set(names[len(LEADING) + count :])
    assert len(set(names)) == len(names)


def test_table2_rows_are_ordered_like_the_papers(results: Path, profile: dict[str, Any]) -> None:
    frame = load_table(profile, "table2", results).frame
    block = frame[frame.setting == "digits-cfg1.5-s20"]
    rows = list(zip(block.method, block.weight_bits, block.activation_bits, strict=True))
    methods = ("rtn", "g4w+p4a", "q-dit")
    assert rows == [("fp", 16, 16), *((m, 6, 8) for m in methods), *((m, 4, 8) for m in methods)]
    printed = [
        r for r in read_published(REPOSITORY_COPY / "table2.csv") if (r["resolution"], r["cfg_scale"]) == (256, 1.5)
    ]
    in_paper = [(r["method"], r["weight_bits"]) for r in printed]
    ours = [
        (name, bits) for name, bits in zip(block.published_method, block.weight_bits, strict=True) if name is not None
    ]
    assert ours == [row for row in in_paper if row in ours] and len(ours) == 5


def test_published_cells_stand_in_their_rows_and_unknown_ones_stay_blank(
    results: Path, profile: dict[str, Any]
) -> None:
    frame = load_table(profile, "table2", results).frame
    row = frame[(frame.setting == "digits-cfg1.5-s20") & (frame.label == "q-dit") & (frame.weight_bits == 4)].iloc[0]
    assert (row.published_fid, row.published_is, row.published_size_mb) == (6.40, 211.72, 347)
    assert row.published_change_fid == 1.09 and row.change_fid == 0.03 and row.difference_fid == round(2.03 - 6.40, 10)
    published = [name for name in frame.columns if name.startswith("published_")]
    assert frame[frame.label == "rtn"][published].isna().all(axis=None)
    assert frame[frame.activation_bits == 4][published].isna().all(axis=None)


def test_unguided_and_guided_blocks_do_not_share_published_numbers(results: Path, profile: dict[str, Any]) -> None:
    frame = load_table(profile, "table2", results).frame
    full = frame[frame.label == "fp"]
    assert list(full.published_fid) == [12.40, 5.31, None]


def test_table4_has_the_papers_steps_in_both_forms(results: Path, profile: dict[str, Any]) -> None:
    frame = load_table(profile, "table4", results).frame
    printed = read_published(REPOSITORY_COPY / "table4.csv")
    for form in ("natural", "salient"):
        block = frame[frame.form == form]
        assert list(block.step) == [row["step"] for row in printed]
        assert list(block.published_fid) == [5.31, 225.50, 13.77, 6.64, 6.40]
        assert list(block.status) == ["ok"] * 4 + ["not run"]
    assert frame.published_precision.isna().all()


def test_only_salient_rows_used_for_the_form_are_fitted(results: Path, profile: dict[str, Any]) -> None:
    frame = load_table(profile, "table4", results).frame
    fitted = frame[frame.fitted == "fitted"]
    assert set(fitted.form) == {"salient"}
    assert list(fitted.label) == ["rtn", "rtn-g16-static", "rtn-g16-dynamic"]


def test_group_sizes_of_both_models_are_named(results: Path, profile: dict[str, Any]) -> None:
    table = load_table(profile, "table4", results)
    assert table.blocks[0].rows[2]["name"] == "+ Group size 16 (paper’s 128)"
    grouped = table.frame[table.frame.label == "rtn-g16-dynamic"]
    assert set(zip(grouped.group_size, grouped.paper_group_size, strict=True)) == {(16, 128)}
    profile.pop("miniature")
    assert set(load_table(profile, "table4", results).frame.paper_group_size.dropna()) == {16}


def test_a_column_the_paper_does_not_print_is_not_shown(results: Path, profile: dict[str, Any]) -> None:
    cells2 = [column.cell for column in columns(load_table(profile, "table2", results))]
    cells4 = [column.cell for column in columns(load_table(profile, "table4", results))]
    assert {"published_size_mb", "published_precision"} <= set(cells2)
    assert not {"published_size_mb", "published_precision"} & set(cells4)
    assert {"fid", "published_fid", "sfid", "published_sfid", "is", "published_is", "fd_fp", "mse_fp"} <= set(cells4)


def test_a_missing_run_is_a_row_with_its_published_numbers(results: Path, profile: dict[str, Any]) -> None:
    key = Run("digits-cfg1.0-s20", "natural", "g4w+p4a", "w4a8", "common")
    (key.folder(results) / "metrics.json").unlink()
    table = load_table(profile, "table2", results)
    row = table.frame[(table.frame.label == "g4w+p4a") & (table.frame.weight_bits == 4)].iloc[0]
    assert row.status == "missing: no metrics.json" and row.published_fid == 25.48 and pd.isna(row.fid)
    assert row.method == "g4w+p4a" and row.group_size == 16
    (warning,) = notes(table).warnings
    assert "runs/digits-cfg1.0-s20/natural/g4w+p4a/w4a8-common" in warning


def test_without_full_precision_there_is_no_change(results: Path, profile: dict[str, Any]) -> None:
    key = Run("digits-cfg1.5-s20", "natural", "fp", "w16a16", "common")
    (key.folder(results) / "metrics.json").unlink()
    frame = load_table(profile, "table2", results).frame
    block = frame[frame.setting == "digits-cfg1.5-s20"]
    assert block.change_fid.isna().all() and block.published_change_fid.notna().sum() == 4


def test_nothing_measured_still_makes_a_table(profile: dict[str, Any], tmp_path: Path) -> None:
    table = load_table(profile, "table2", tmp_path / "results" / "mini")
    assert set(table.frame.status) == {"missing: no metrics.json"} and len(table.frame) == 7 + 7 + 4
    assert len(notes(table).warnings) == 18


def test_rows_under_different_protocols_are_reported(
    results: Path, profile: dict[str, Any], change_record: Any
) -> None:
    key = Run("digits-cfg1.5-s20", "natural", "q-dit", "w4a8", "common")
    change_record(key, of_another_protocol)
    (warning,) = notes(load_table(profile, "table2", results)).warnings
    assert "2 protocols" in warning and "guidance (cfg) 1.5" in warning


def test_best_is_per_bits_without_full_precision_and_shared_by_equal_prints(
    results: Path, profile: dict[str, Any], change_record: Any
) -> None:
    rtn = Run("digits-cfg1.5-s20", "natural", "rtn", "w4a8", "common")
    change_record(rtn, lambda record: record["metrics"].update(fid=0.504, precision=0.99, sfid=3.0601))
    block = load_table(profile, "table2", results).blocks[1]
    labels = [(row["label"], row["weight_bits"]) for row in block.rows]
    best = {(*labels[number], metric) for number, metric in best_cells(block)}
    assert ("rtn", 4, "fid") in best and ("q-dit", 4, "fid") not in best  # lower is better, even below FP
    assert ("rtn", 4, "precision") in best and ("q-dit", 4, "precision") not in best  # higher is better
    assert {("rtn", 4, "sfid"), ("q-dit", 4, "sfid")} <= best  # both print 3.06
    assert ("q-dit", 4, "is") in best and ("rtn", 4, "is") not in best
    assert ("q-dit", 6, "fid") in best


def test_full_precision_never_competes() -> None:
    rows = [{"method": method, "weight_bits": 16, "activation_bits": 16} for method in ("fp", "rtn", "q-dit")]
    fids = (1.0, 3.0, 2.0)
    block = Block("", "", tuple(row | {"fid": fid} for row, fid in zip(rows, fids, strict=True)))
    assert best_cells(block) == {(2, "fid")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0352, "0.0352"),
        (0.2, "0.200"),
        (12.345, "12.3"),
        (1869.6, "1870"),
        (100, "100"),
        (3e-7, "3.00e-7"),
        (0, "0.00"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_warnings_about_the_miniature_are_only_for_it(results: Path, profile: dict[str, Any]) -> None:
    assert "does not always rise" in " ".join(notes(load_table(profile, "table2", results)).reading)
    profile.pop("miniature")
    text = " ".join(notes(load_table(profile, "table2", results)).reading)
    assert "does not always rise" not in text and "different data and models" not in text


def test_the_shipped_profile_has_tables_that_build(tmp_path: Path) -> None:
    profile = load_profile()
    for name in profile["tables"]:
        frame = load_table(profile, name, tmp_path / "mini").frame
        assert len(frame) and not (frame.status == "ok").any()
        if name in ("table2", "table4", "table5", "ptq4dit_table1"):
            assert frame.published_fid.notna().any()


def test_wrong_requests_are_one_clear_line(results: Path, profile: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'table2'"):
        load_table(profile, "tabel2", results)
    profile["tables"]["table4"]["blocks"][0]["bits"] = ["w4a8", "w6a8"]
    with pytest.raises(ConfigError, match="at one"):
        load_table(profile, "table4", results)
    profile["tables"]["table2"]["blocks"][0]["published"] = {"steps": 50}
    with pytest.raises(ConfigError, match="expected cfg_scale, resolution, steps"):
        load_table(profile, "table2", results)
    profile["tables"]["table2"]["blocks"][0]["methods"] = ["fp", "q-ditt"]
    with pytest.raises(ConfigError, match="did you mean 'q-dit'"):
        load_table(profile, "table2", results)
    profile["tables"]["table2"]["kind"] = "table9"
    with pytest.raises(ConfigError, match="one of table2, table5"):
        load_table(profile, "table2", results)


def test_sizes_that_a_search_found_are_not_called_one_group_size() -> None:
    row = {"group_size": 16, "paper_group_size": 128}
    assert group_text(row) == "group size 16 (paper’s 128)" and group_text(row | {"paper_group_size": 16}) == (
        "group size 16"
    )
    assert group_text(row | {"allocation_sha256": "a" * 64}) == "searched group sizes"
