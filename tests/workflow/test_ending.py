"""The last lines of a run name the pages and rows that were asked for, the report last, and how to go on."""

from pathlib import Path

from qdit.workflow.ending import counted_rows, ending, row_lines, target_pages, target_rows
from qdit.workflow.profile import load_profile
from tests.workflow.graph import GraphJob


def test_the_last_lines_name_the_pages_of_the_target_and_the_report_last(tmp_path: Path) -> None:
    names = ["tables/table2.html", "tables/table2.csv", "claims.html", "index.html"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = [str(tmp_path / name) for name in names]
    profile = {**load_profile("mini"), "tables": {}}
    target = GraphJob("all", [], files)
    pages = target_pages([target])
    lines = ending(profile, tmp_path, pages, files[-1])
    assert lines[-2:] == ["The report, one page:", f"  {files[-1]}"]
    assert f"  {files[0]}" in lines and f"  {files[1]}" not in lines and f"  {files[2]}" in lines
    alone = ending(profile, tmp_path, target_pages([GraphJob("integer", [], [files[0]])]), files[-1])
    assert alone[-1] == f"  {files[0]}"


def test_rows_that_were_asked_for_are_said_with_their_numbers_or_why_there_are_none(tmp_path: Path) -> None:
    made, missing = tmp_path / "rtn" / "metrics.json", tmp_path / "q-dit" / "metrics.json"
    made.parent.mkdir(parents=True)
    made.write_text('{"status": "failed", "error": "failed in quantize: too hot"}', encoding="utf-8")
    rows = target_rows([GraphJob("evaluate", [str(path), "bootstrap.npz"]) for path in (made, missing)])
    assert rows == [made, missing]
    assert row_lines(rows) == [f"{made}: no numbers: failed in quantize: too hot", f"{missing}: not made yet"]


def test_rows_of_a_target_without_outputs_are_counted_and_not_printed(tmp_path: Path) -> None:
    """`qdit run claims_rows` has inputs only; a table's row is counted in its table."""
    files = [tmp_path / "rtn" / "metrics.json", tmp_path / "q-dit" / "metrics.json"]
    page = str(tmp_path / "claims.html")
    claims_rows = GraphJob("claims_rows", [], [str(tmp_path / "profile.json"), *map(str, files), page])
    table = GraphJob("table", [str(tmp_path / "table2.html")], [str(files[0])])
    assert counted_rows([claims_rows]) == files and target_rows([claims_rows]) == []
    assert target_pages([claims_rows]) == [page], "the last lines of the run name it"
    assert counted_rows([table]) == []
    assert counted_rows([GraphJob("evaluate", [str(files[1])], [str(files[0])])]) == [files[1]]


def test_the_last_lines_say_how_to_go_on(tmp_path: Path) -> None:
    profile = {**load_profile("mini"), "tables": {}}
    lines = ending(profile, tmp_path, [str(tmp_path / "tables" / "table2.html")], "", stopped=True)
    assert lines[-1] == "Stopped. Pages that are missing: 1. The same command goes on from what is there."
