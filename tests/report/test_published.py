"""The printed numbers are in the repository, are read as they are, and belong to the right rows."""

from pathlib import Path

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.report.data.published import REPOSITORY_COPY, find, published_folder, read_published

ROWS = {"table1": 10, "table2": 39, "table3": 3, "table4": 5, "table5": 3, "table6": 4}
ROWS |= {"ptq4dit_table1": 33, "tq_dit": 9, "methods": 37}


@pytest.mark.parametrize(("name", "count"), ROWS.items())
def test_every_table_has_its_rows(name: str, count: int) -> None:
    assert len(read_published(REPOSITORY_COPY / f"{name}.csv")) == count


def test_table2_cells_and_the_two_differences_of_the_papers_text() -> None:
    printed = read_published(REPOSITORY_COPY / "table2.csv")
    guided = {"resolution": 256, "steps": 100, "cfg_scale": 1.5, "activation_bits": 8}
    q_dit4 = find(printed, **guided, weight_bits=4, method="Q-DiT")
    q_dit6 = find(printed, **guided, weight_bits=6, method="Q-DiT")
    grouped = find(printed, **guided, weight_bits=6, method="G4W+P4A")
    full = find(printed, **(guided | {"activation_bits": 16}), weight_bits=16, method="FP")
    assert q_dit4 is not None and q_dit6 is not None and grouped is not None and full is not None
    assert (q_dit4["fid"], q_dit4["sfid"], q_dit4["is"], q_dit4["precision"]) == (6.40, 18.60, 211.72, 0.7609)
    assert (full["size_mb"], grouped["size_mb"], q_dit4["size_mb"]) == (1349, 520, 347)
    assert grouped["fid"] - q_dit6["fid"] == pytest.approx(1.09)  # abstract: reduced by 1.09 at W6A8
    assert q_dit4["fid"] - full["fid"] == pytest.approx(1.09)  # conclusion: only 1.09 above FP at W4A8


def test_table4_and_table2_print_the_same_searched_row() -> None:
    step = find(read_published(REPOSITORY_COPY / "table4.csv"), fid=6.40)
    row = find(read_published(REPOSITORY_COPY / "table2.csv"), fid=6.40)
    assert step is not None and row is not None
    assert (step["sfid"], step["is"]) == (row["sfid"], row["is"]) == (18.60, 211.72)


def test_illegible_cells_of_table3_stay_unknown() -> None:
    for row in read_published(REPOSITORY_COPY / "table3.csv"):
        unknown = [name for name, value in row.items() if value is None]
        assert len(unknown) == 8 and "multiple_objects" in unknown


def test_only_one_cell_of_the_tables_that_are_not_available_is_known() -> None:
    known = []
    for name in ("ptq4dit_table1", "tq_dit"):
        for row in read_published(REPOSITORY_COPY / f"{name}.csv"):
            metrics = ("size_mb", "fid", "sfid", "is", "precision")
            known += [
                (row["method"], row["steps"], row["weight_bits"], n, row[n]) for n in metrics if row[n] is not None
            ]
    assert known == [("PTQ4DiT", 50, 4, "fid", 9.17)]


def test_rows_of_the_methods_of_today_name_their_source() -> None:
    rows = read_published(REPOSITORY_COPY / "methods.csv")
    assert all("DeepCompressor at 69f3473" in str(row["source"]) for row in rows)
    found = find(rows, model="pixart-sigma", weight_bits=4, activation_bits=4, method="SVDQuant")
    assert found is not None and (found["fid"], found["lpips_fp"], found["psnr_fp"]) == (19.2, 0.323, 17.6)
    for model in {row["model"] for row in rows}:
        full = find(rows, model=model, weight_bits=16, activation_bits=16, method="FP")
        assert full is not None and full["fid"] is not None and full["psnr_fp"] is None


def test_rtn_has_no_row_in_table2() -> None:
    assert find(read_published(REPOSITORY_COPY / "table2.csv"), method="RTN") is None


def test_an_ambiguous_or_unknown_key_is_refused() -> None:
    printed = read_published(REPOSITORY_COPY / "table2.csv")
    with pytest.raises(DataError, match="found 6"):
        find(printed, method="Q-DiT")
    with pytest.raises(ConfigError, match="did you mean 'cfg_scale'"):
        find(printed, cfg_scal=1.5)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    torn = tmp_path / "table2.csv"
    torn.write_text("method,fid\nQ-DiT\n")
    with pytest.raises(DataError, match="line 2: 1 cells, expected 2"):
        read_published(torn)
    torn.write_text("")
    with pytest.raises(DataError, match="header"):
        read_published(torn)
    with pytest.raises(DataError, match="no such file"):
        read_published(tmp_path / "table9.csv")


def test_numbers_beside_the_results_win(tmp_path: Path) -> None:
    assert published_folder(tmp_path / "results" / "mini") == REPOSITORY_COPY
    (tmp_path / "results" / "published").mkdir(parents=True)
    assert published_folder(tmp_path / "results" / "mini") == tmp_path / "results" / "published"
