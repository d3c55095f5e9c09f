"""The full-size parts at a tiny scale: all of them work, and the record says what was measured."""

from pathlib import Path

import pytest

from qdit.bench import full_size
from qdit.bench.full_size_parts import FULL, QUICK, parts, run_part
from qdit.bench.page import text_of, write_into, write_page
from qdit.bench.record import read_record
from qdit.core.errors import DataError
from qdit.methods.registry import registry
from tests.full_size.expected import faults


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each part finds what earlier ones left."""
    return tmp_path_factory.mktemp("quick")


@pytest.mark.parametrize("part", parts())
def test_every_part_works(part: str, folder: Path) -> None:
    entry = run_part(part, folder, QUICK)
    assert entry["stages"] and all(stage["peak_bytes"] > 0 for stage in entry["stages"])
    assert faults(part, entry["facts"], QUICK) == []


def test_every_method_is_a_part() -> None:
    assert {f"two-blocks-{name}" for name in registry()} <= set(parts())


def test_the_full_scale_has_the_papers_shapes() -> None:
    assert (FULL.dit.hidden_size, FULL.dit.depth, FULL.dit.input_size) == (1152, 28, 32)
    assert (FULL.shallow.hidden_size, FULL.shallow.depth) == (1152, 2)
    assert FULL.samples == 16


def test_faults_are_found() -> None:
    good = {"predicted_mb": 100.0}
    assert faults("q-dit", good | {"actual_mb": 101.5, "layers": 12}, QUICK)
    assert not faults("q-dit", good | {"actual_mb": 100.9, "layers": 12}, QUICK)
    assert faults("q-dit", good | {"actual_mb": 100.0, "layers": 11}, QUICK)
    assert faults("diffusers", {"same_bits": False, "finite": True}, QUICK)


def made_up(part: str, folder: Path, *, scale: str, threads: int):
    return {
        "stages": [{"stage": "import", "seconds": 2.0, "cpu_seconds": 1.0, "peak_bytes": 3 * 2**30}],
        "facts": {"same_bits": True, "shape": [1, 4], "levels": 7},
        "peak_bytes": 3 * 2**30,
        "threads": threads,
        "commit": f"of {part}",
        "processor": "made up",
        "at": "2000-01-01T00:00:00+00:00",
        "load": {"before": 0.5, "after": 0.25},
    }


def test_a_record_keeps_the_parts_that_are_not_measured_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(full_size, "measure_part", made_up)
    out, said = tmp_path / "record.json", []
    full_size.measure("command", tmp_path, out, only=["vae"])
    content = full_size.measure("command", tmp_path, out, only=["import-pt"], say=said.append)
    assert list(content["measured"]) == ["import-pt", "vae"]  # in the order of the parts
    assert read_record(out)["measured"] == content["measured"]
    assert said == ["import-pt: 2 s, 1 s of CPU, peak 3.00 GiB"]
    text = text_of(content)
    assert "of vae" in text and "0.5, 0.2" in text and "1×4" in text and "distinct pixel values" in text
    assert text.count("yes") == 2  # of both parts, in one table
    assert "Not measured: weights, calibrate" in text
    (page,) = write_page(content, tmp_path / "page")
    assert (
        page.read_text(encoding="utf-8").count("| import") == 4
    )  # the part in both tables, and the stage of both parts


def test_a_record_goes_into_a_page_between_its_marks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(full_size, "measure_part", made_up)
    page, out = tmp_path / "page.md", tmp_path / "record.json"
    content = full_size.measure("command", tmp_path, out, only=["vae"])
    page.write_text("above\n<!-- bench full-size -->\nold\n<!-- end -->\nbelow\n", encoding="utf-8")
    write_into(content, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text and "| vae" in text
    write_into(content, page)
    assert page.read_text(encoding="utf-8") == text
    page.write_text("no marks\n", encoding="utf-8")
    with pytest.raises(DataError, match="<!-- bench full-size -->"):
        write_into(content, page)


def test_unknown_parts_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="part 'vea'"):
        full_size.measure("command", tmp_path, tmp_path / "record.json", only=["vea"])
    with pytest.raises(DataError, match="did you mean 'vae'"):
        run_part("vea", tmp_path, QUICK)


def test_a_part_that_fails_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"full-size part import-pt: failed with status 1: .*official\.pt"):
        full_size.measure_part("import-pt", tmp_path, scale="quick")
