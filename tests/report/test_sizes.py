"""Sizes of the paper's model beside the printed ones, in both profiles and without any run."""

from dataclasses import replace
from pathlib import Path

import pytest

from qdit.core.number_text import printed_size
from qdit.report.data import sizes
from qdit.report.data.sizes import real_sizes
from qdit.report.render.display import columns, lines
from qdit.report.render.text import markdown_text
from qdit.report.tables.kinds import load_table
from qdit.workflow.method_index import method_sources
from qdit.workflow.profile import load_profile

DEFINED = {"FP", "PTQ4DM", "RepQ-ViT", "TFMQ-DM", "PTQ4DiT", "G4W+P4A"}
"""Printed rows whose size follows from their bits and groups; Q-DiT's depend on groups that were not published."""


@pytest.fixture(scope="module", params=["mini", "paper"])
def table(request, repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """Table 2 of a profile of which nothing has been run."""
    profile = load_profile(repository / "config" / f"{request.param}.yaml")
    return load_table(profile, "table2", tmp_path_factory.mktemp("results"))


def test_sizes_are_the_printed_ones_wherever_these_are_defined(table) -> None:
    defined = [row for row in table.rows if row.get("published_method") in DEFINED]
    assert len(defined) == 3 * (1 + 2 * 5)
    for row in defined:
        assert printed_size(row["shape_size_mb"]) == str(row["published_size_mb"]), row["published_method"]
    assert {row["published_size_mb"] for row in defined} == {1349, 508, 339, 520, 351}


def test_searched_group_sizes_give_no_size_before_they_are_known(table) -> None:
    rows = [row for row in table.rows if row.get("published_method") == "Q-DiT"]
    assert len(rows) == 6
    assert all(row.get("shape_size_mb") is None for row in rows)


def test_q_dit_with_one_group_size_is_a_little_larger_than_the_searched_one_that_is_printed(table) -> None:
    """One size of 128 needs no more groups than G4W+P4A's weights, whose row has the same size."""
    q_dit = [row for row in table.rows if row.get("published_method") == "Q-DiT"]
    searched = {row["weight_bits"]: row["published_size_mb"] for row in q_dit}
    one_size = [row for row in table.rows if row["label"] == "g4w+p4a" and row["weight_bits"] in searched]
    assert len(one_size) >= 6
    for row in one_size:
        assert 0 < row["shape_size_mb"] - searched[row["weight_bits"]] < 5


def test_what_a_checkpoint_holds_is_more(table) -> None:
    """The layers that scope common leaves alone are a third of the weights and stay in floating point."""
    for row in table.rows:
        if row.get("shape_actual_mb") is not None:
            assert row["shape_actual_mb"] > 1.9 * row["shape_size_mb"]
    by_method = {(row["label"], row["weight_bits"]): row.get("shape_actual_mb") for row in table.rows}
    assert by_method["rtn", 4] == pytest.approx(1140, abs=20)
    assert by_method["tfmq-dm", 4] is None  # quantizes layers outside the blocks as well


def test_sites_that_hold_more_than_codes_give_no_size_from_shapes(monkeypatch) -> None:
    facts = method_sources()["rtn"]
    row = {"weight_bits": 4, "scope": "common", "paper_group_size": None}
    assert set(real_sizes(row, {"method": "rtn"})) == {"shape_size_mb", "shape_actual_mb"}
    monkeypatch.setattr(sizes, "method_sources", lambda: {"rtn": replace(facts, stores_more_than_codes=True)})
    assert real_sizes(row, {"method": "rtn"}) == {}
    assert real_sizes(row | {"weight_bits": 16}, {"method": "rtn"}) != {}


def test_both_accountings_stand_beside_the_printed_sizes(table) -> None:
    sources = [column.source for column in columns(table) if column.metric == "size_mb"]
    assert sources == ["ours", "on disk", "DiT-XL/2", "DiT-XL/2 on disk", "paper"]
    shown = {
        line.name: [cell.text for cell in line.cells[:5]] for line in lines(table, table.blocks[0], columns(table))[:8]
    }
    assert shown["FP"][2:] == ["1349", "2699", "1349"]
    assert shown["G4W+P4A"][2] == shown["G4W+P4A"][4] == "520"
    assert "cut, not rounded" in markdown_text(table)
