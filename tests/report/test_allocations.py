"""Tables and figures about allocations: Table 1, Table 6 with what each search took, and the transfer matrix."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.report.data.allocations import (
    Remeasured,
    SearchedAllocation,
    by_role,
    read_searched_allocation,
    timed_searches,
)
from qdit.report.pages.build import build_table
from qdit.report.render.allocation_figures import fresh_noise, heat_maps, kept, matrix
from qdit.report.render.display import columns
from qdit.report.render.notes import notes
from qdit.report.tables.kinds import load_table
from qdit.workflow.searches import SearchRun

PLAIN = "digits-cfg1.0-s20"
LAYERS = [f"blocks.{block}.{name}" for block in range(3) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
REFERENCE = [16] * len(LAYERS)
CHOSEN = [4, 36, 16, 36] * 3
Profile = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture
def write(wide_results: Path) -> Write:
    """Write an allocation as `qdit search` does, and its time."""

    def allocation(search: str, *, form: str = "natural", bits: str = "w4a8", seconds: float | None = 12.3) -> Path:
        path = wide_results / "search" / PLAIN / form / search / f"{bits}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        sampled = search != "ilp"
        fresh = [
            {"genome": CHOSEN, "fitness": 0.010, "fresh": 0.012},
            {"genome": REFERENCE, "fitness": 0.015, "fresh": 0.014},
        ]
        content = {
            "groups": dict(zip(LAYERS, CHOSEN, strict=True)),
            "budget": 90.0,
            "budget_limit": 100.0,
            "harmonic_mean_group_size": 17.25,
            "images_sampled": 640 if sampled else 0,
            "identity": {"method": search},
            "space": {"reference": 16},
            "fresh": fresh if sampled else [],
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        if seconds is not None:
            times = {"seconds": seconds, "workers": 2, "processor": "Abacus"}
            path.with_suffix(".times.json").write_text(json.dumps(times), encoding="utf-8")
        return path

    return allocation


@pytest.fixture
def searched(write: Write) -> None:
    """Every allocation of the wide profile."""
    for search in ("evolution", "racing", "ilp"):
        write(search)
    write("evolution", bits="w4a4")


def test_table1_names_both_group_sizes_and_stands_beside_the_papers(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "table1", wide_results)
    assert [row["name"] for row in table.rows] == [
        "FP",
        "Group size 36 (paper’s 288)",
        "Group size 16 (paper’s 128)",
    ]
    assert list(table.frame.published_fid) == [None, 25.11, 17.87]
    assert list(table.frame.published_sfid) == [None, 28.54, 20.45]
    assert table.frame.difference_fid[1] == round(table.frame.fid[1] - 25.11, 10)
    wide["models"]["dit-digits"]["reference"] = "digits-16"
    assert list(load_table(wide, "table1", wide_results).frame.published_fid) == [None, 27.24, 22.78]


@pytest.mark.usefixtures("searched")
def test_table6_says_what_every_search_took(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "table6", wide_results)
    frame = table.frame
    assert list(frame.published_method[:5]) == [
        None,
        "Group size = 128",
        "ILP",
        "Evolutionary (Q-DiT)",
        None,
    ]
    assert list(frame.published_fid[:5]) == [None, 6.64, 6.71, 6.40, None]
    assert list(frame.published_precision[:5]) == [None, 0.7548, 0.7538, 0.7609, None]
    assert frame.published_fid[5:].isna().all(), "the paper has W4A8 only"
    assert list(frame.images_sampled[:5]) == [None, 0, 0, 640, 640]
    assert "search_seconds" not in frame, "times are on the page of times: equal results give equal tables"
    assert list(frame.budget_used[:5]) == [None, 1.0, 0.9, 0.9, 0.9]
    assert list(frame.harmonic_mean_group_size[:5]) == [None, 16.0, 17.25, 17.25, 17.25]
    assert list(frame.search[:5]) == [None, None, "ilp", "evolution", "racing"]
    assert list(frame.searched_at[-1:]) == [f"{PLAIN}/natural/evolution/w4a4"]
    assert [row["name"] for row in table.rows][1:5] == ["Group size 16", "ILP", "Evolutionary search", "Racing"]
    cells = [column.cell for column in columns(table)]
    assert cells[-3:] == ["images_sampled", "budget_used", "harmonic_mean_group_size"]
    text = " ".join(notes(table).reading)
    assert "wall time" not in text and "Searches measure FD-FP on 64 images" in text


@pytest.mark.usefixtures("searched")
def test_the_page_of_table6_draws_the_allocations_twice(wide_results: Path, wide: Profile, tmp_path: Path) -> None:
    texts = {path.suffix: path.read_text() for path in build_table(wide, "table6", wide_results, tmp_path / "table6")}
    page = texts[".html"]
    assert page.count("<h2>Allocations found</h2>") == 1
    assert page.count("<h2>Fitness on the search’s noise and on fresh noise</h2>") == 1
    assert page.count('href="data:image/png;base64,') == 2 and "table6-1.png" in page
    for text in ("attn_out", "qkv", "fc1", "fc2", "uniform reference", "Racing, natural", "on fresh noise"):
        assert text in page
    words = re.sub(r'base64,[^"]*"', "", page).split("<script>")[0]
    assert "http" not in words and "NaN" not in words
    assert "90.0%" in page and r"90.0\%" in texts[".tex"] and "12" in texts[".md"]
    again = build_table(wide, "table6", wide_results, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [texts[path.suffix].encode() for path in again]


def test_without_allocations_the_table_is_made_without_figures(wide_results: Path, wide: Profile) -> None:
    table = load_table(wide, "table6", wide_results)
    assert table.figures == () and table.frame.images_sampled.dropna().eq(0).all()
    assert "Search (s)" not in " ".join(notes(table).reading)


def headline(wide: Profile) -> Profile:
    """The profile with a searched Q-DiT beside the searched sizes that are rounded to nearest."""
    wide["methods"]["q-dit"] |= {"search": "racing"}
    return wide


def test_table4_prints_the_last_step_beside_gptq_and_searched_sizes(wide_results: Path, wide: Profile) -> None:
    block = headline(wide)["tables"]["table4"]["blocks"][0] | {"setting": PLAIN}
    block["methods"] = ["fp", "rtn", "rtn-g16-static", "rtn-g16-dynamic", "allocated-evolution", "q-dit"]
    wide["tables"]["table4"]["blocks"] = [block]
    table = load_table(wide, "table4", wide_results)
    rounded, last = table.frame.iloc[-2], table.frame.iloc[-1]
    assert (rounded.label, last.label) == ("allocated-evolution", "q-dit")
    assert rounded.step.endswith("weights rounded to nearest") and rounded.published_fid is None
    assert last.step == "+ Automatic quantization granularity allocation" and last.published_fid == 6.40
    assert [row["short"] for row in table.rows] == ["FP", "RTN", "+ groups", "+ dynamic", "+ searched sizes", "Q-DiT"]
    assert any("rounded to nearest" in note and "above the last" in note for note in notes(table).reading)


def test_table6_prints_ours_beside_gptq_and_searched_sizes(wide_results: Path, wide: Profile) -> None:
    block = headline(wide)["tables"]["table6"]["blocks"][0]
    block["methods"] = [*block["methods"], "q-dit"]
    frame = load_table(wide, "table6", wide_results).frame
    first = frame[:6]
    assert list(first.label) == block["methods"]
    printed = dict(zip(first.label, first.published_fid, strict=True))
    assert printed["q-dit"] == 6.40 and printed["allocated-evolution"] is None
    assert printed["allocated-ilp"] == 6.71 and printed["rtn-g16-dynamic"] == 6.64
    table = load_table(wide, "table6", wide_results)
    ours = table.blocks[0].rows[5]
    assert (ours["name"], ours["detail"]) == ("Q-DiT", "searched group sizes, GPTQ weights")
    assert len({row["short"] for row in table.blocks[0].rows}) == 6
    assert any("the row of Table 2" in note for note in notes(table).reading)


def test_the_last_step_of_table4_is_a_search(wide_results: Path, wide: Profile) -> None:
    block = wide["tables"]["table4"]["blocks"][0] | {"setting": PLAIN}
    block["methods"] = ["fp", "rtn", "rtn-g16-static", "rtn-g16-dynamic", "allocated-evolution"]
    wide["tables"]["table4"]["blocks"] = [block]
    table = load_table(wide, "table4", wide_results)
    last = table.frame.iloc[-1]
    assert last.step == "+ Automatic quantization granularity allocation" and last.published_fid == 6.40
    assert table.rows[-1]["short"] == "+ searched sizes"
    assert last.status == "ok" and last.label == "allocated-evolution"
    assert any("rounded to nearest" in note for note in notes(table).reading)


def test_transfer_compares_with_uniform_at_each_place(wide_results: Path, wide: Profile, write: Write) -> None:
    write("racing")
    table = load_table(wide, "transfer", wide_results)
    frame = table.frame
    natural, salient = frame[frame.form == "natural"], frame[frame.form == "salient"]
    for block in (natural, salient):
        base = block[block.label == "rtn-g16-dynamic"].iloc[0]
        moved = block[block.label == "from-natural"].iloc[0]
        assert base.ratio_fd_fp == 1 and moved.ratio_fd_fp == round(moved.fd_fp / base.fd_fp, 10)
        assert moved.searched_at == f"{PLAIN}/natural/racing/w4a8"
        assert moved.images_sampled == 640
    details = [row["detail"] for row in table.rows if row["label"] == "from-natural"]
    assert details == ["home", ""]
    (figure,) = table.figures
    assert figure.svg.count(">found for natural<") == 1 and "salient W4A8" in figure.svg
    wide["tables"]["transfer"]["blocks"][0]["methods"] = ["fp", "from-natural"]
    with pytest.raises(ConfigError, match="no method of uniform group_size 16"):
        load_table(wide, "transfer", wide_results)


def test_allocations_are_read_whole_or_not_at_all(wide_results: Path, write: Write) -> None:
    place = SearchRun(PLAIN, "natural", "racing", "w4a8")
    assert read_searched_allocation(wide_results, place) is None
    path = write("racing", seconds=None)
    assert timed_searches(wide_results) == []
    write("racing")
    assert timed_searches(wide_results) == [(f"{PLAIN}/natural/racing/w4a8", 12.3, 2)]
    found = read_searched_allocation(wide_results, place)
    assert found is not None
    assert found.remeasured == (Remeasured(0.010, 0.012, False), Remeasured(0.015, 0.014, True))
    text = path.read_text()
    odd = [text.replace("640", number) for number in ('"many"', "Infinity")]
    for damaged in ("", "[]", text[:-9], text.replace('"groups"', '"group"'), *odd):
        path.write_text(damaged)
        assert read_searched_allocation(wide_results, place) is None


def found_with(*remeasured: Remeasured) -> SearchedAllocation:
    return SearchedAllocation("racing", dict(zip(LAYERS, CHOSEN, strict=True)), 1, 0.9, 17.0, remeasured)


def test_layers_are_ordered_by_role_and_block() -> None:
    groups = {"blocks.1.mlp.fc2": 4, "blocks.0.attn.qkv": 8, "blocks.1.attn.qkv": 16, "blocks.0.cross": 36}
    assert list(by_role(groups).items()) == [("qkv", [8, 16]), ("fc2", [None, 4]), ("cross", [36, None])]


def test_a_heat_map_has_the_size_of_every_layer() -> None:
    figure = heat_maps([("one", found_with()), ("two", found_with())], (4, 16, 36))
    assert figure is not None
    for size, count in ((4, 6), (36, 12), (16, 6)):
        assert len(re.findall(rf">{size}</text>", figure.svg)) == count
    assert figure.png.startswith(b"\x89PNG") and figure.svg.startswith("<svg") and "var(--ink)" in figure.svg
    assert heat_maps([], (4, 16)) is None


def test_fitness_that_is_not_finite_is_not_drawn() -> None:
    bad = Remeasured(float("inf"), 1.0, False)
    figure = fresh_noise([("a", [("x", found_with(bad, Remeasured(1.0, 2.0, False)))])], "FD-FP")
    assert figure is not None and "nan" not in figure.svg.lower() and "inf" not in figure.svg
    assert fresh_noise([("a", [("x", found_with())])], "FD-FP") is None


def test_a_matrix_shows_blanks_for_what_is_missing() -> None:
    figure = matrix(["r"], ["c", "d"], [[0.5, None]], title="t", about="a")
    assert figure is not None and ">0.500<" in figure.svg and ">–<" in figure.svg
    assert matrix(["r"], ["c"], [[None]], title="t", about="a") is None
    assert kept([None, figure, None]) == (figure,)
