"""The table of tools: tools, methods and imported images, both sizes and speeds, and the finding in a sentence."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from qdit.core.run import IMPORTED, TOOL, Run
from qdit.report.data.speeds import read_speed, speed_cells
from qdit.report.pages.build import build_table
from qdit.report.pages.leaderboard import leaderboard
from qdit.report.render.headline import headline
from qdit.report.tables.kinds import load_table
from tests.report.conftest import PLAIN, record, write_record

BITS = ["w6a8", "w4a8"]
MACHINE = {"processor": "Test CPU", "cores": 2, "system": "Linux"}


def speed(modes: dict[str, Any]) -> dict[str, Any]:
    return {"format": 1, "machine": MACHINE, "threads": 1, "batch": 32, "steps": 20, "modes": modes}


def tool_speed(images: float) -> dict[str, Any]:
    facts = {"images_per_second": images, "over_full_precision": 1.5, "memory_mb": 7.5, "float_mb": 12.36}
    return speed({"tool": {**facts, "seconds": [1.0]}})


@pytest.fixture
def with_tools(profile: dict[str, Any], results: Path) -> dict[str, Any]:
    """The profile with a table of kind tools, and results of a tool and of imported images at W4A8."""
    profile["methods"] |= {
        "sdnq": {"method": "sdnq", "tool": "sdnq", "about": "SDNQ"},
        "mine": {"method": "imported", "images": {"w4a8": "data/a"}, "setting": PLAIN, "form": "natural"},
    }
    methods = ["fp", "rtn", "q-dit", "sdnq", "mine"]
    block = {"setting": PLAIN, "form": "natural", "scope": "common", "bits": BITS, "methods": methods}
    profile["tables"]["tools"] = {"kind": "tools", "opt_in": True, "blocks": [block]}
    for bits in BITS:
        run = Run(PLAIN, "natural", "sdnq", bits, "common", TOOL)
        write_record(results, run, record(run, profile) | {"mode": TOOL, "backend": "sdnq 0.2.8"})
        (run.folder(results) / "speed.json").write_text(json.dumps(tool_speed(123.0)))
    run = Run(PLAIN, "natural", "mine", "w4a8", "common", IMPORTED)
    content = record(run, profile) | {
        "mode": IMPORTED,
        "backend": "none",
        "size": {"paper_mb": None, "actual_mb": None},
    }
    write_record(results, run, content)
    ours = Run(PLAIN, "natural", "q-dit", "w4a8", "common")
    modes = {
        "simulate": {
            "images_per_second": 20.0,
            "over_full_precision": 0.987,
            "memory_mb": 9.0,
            "seconds": [1.6],
        },
        "integer": {"images_per_second": 55.0, "memory_mb": 4.0, "seconds": [0.6]},
    }
    (ours.folder(results) / "speed.json").write_text(json.dumps(speed(modes)))
    rtn = Run(PLAIN, "natural", "rtn", "w4a8", "common")
    modes["integer"] = {"why": "the input is not quantized"}
    (rtn.folder(results) / "speed.json").write_text(json.dumps(speed(modes)))
    return profile


def test_rows_have_damage_sizes_and_speeds(with_tools: dict[str, Any], results: Path, tmp_path: Path) -> None:
    paths = {path.suffix: path for path in build_table(with_tools, "tools", results, tmp_path / "tools")}
    rows = {(row["label"] or row["method"], row["weight_bits"]): row for row in csv.DictReader(paths[".csv"].open())}
    sdnq, ours, rtn = rows["sdnq", "4"], rows["q-dit", "4"], rows["rtn", "4"]
    assert (sdnq["mode"], sdnq["speed_real"], sdnq["speed_simulated"]) == (TOOL, "123.0", "")
    assert (sdnq["memory_real_mb"], sdnq["disk_mb"]) == ("7.5", "1.125")
    assert (ours["speed_simulated"], ours["speed_real"], ours["memory_mb"], ours["memory_real_mb"]) == (
        *("20.0", "55.0"),
        *("9.0", "4.0"),
    )
    assert rtn["speed_real"] == "" and rtn["speed_simulated"] == "20.0"
    assert (sdnq["over_fp_real"], ours["over_fp_simulated"], ours["over_fp_real"]) == ("1.5", "0.987", "")
    assert rows["mine", "4"]["disk_mb"] == "" and ("mine", "6") not in rows
    text = paths[".md"].read_text()
    assert "mine (imported)" in text and "SDNQ, tool, sdnq 0.2.8" in text
    assert "Test CPU, 2 cores, 1 thread; batches of 32 images, 20 steps. × FP: over the speed of our" in text
    assert "Speed, × FP, integer or tool" in text and " 1.50 |" in text
    assert "the input is not quantized" in text and "12.36 MB" in text


def test_the_page_opens_with_the_finding(with_tools: dict[str, Any], results: Path) -> None:
    finding = headline(load_table(with_tools, "tools", results)).text
    assert finding.startswith(
        "The best of our methods against the best of others by PSNR-FP: at W6A8 Q-DiT (56.99 dB) "
    )
    assert "at W4A8 Q-DiT (45.23 dB)" in finding and finding.endswith(".") and "SDNQ" in finding


def test_imported_rows_say_so_on_the_leaderboard(with_tools: dict[str, Any], results: Path) -> None:
    names = [row["name"] for row in leaderboard(with_tools, results).rows]
    assert any(name.endswith("mine (imported)") for name in names) and any("SDNQ" in name for name in names)


def test_a_row_without_speed_or_with_a_damaged_file_has_blanks(results: Path) -> None:
    run = Run(PLAIN, "natural", "rtn", "w6a8", "common")
    assert read_speed(results, run) is None and set(speed_cells(None).values()) == {None}
    (run.folder(results) / "speed.json").write_text("{")
    assert read_speed(results, run) is None


@pytest.mark.parametrize(
    "change",
    [
        {"machine": None},
        {"machine": {"cores": 2}},
        {"threads": None, "machine": []},
        {"modes": []},
        {"modes": {"simulate": 3}},
        {"modes": {"tool": {"images_per_second": "fast"}}},
        {"modes": {"simulate": {"memory_mb": float("nan")}}},
    ],
)
def test_a_file_of_speeds_that_is_not_whole_leaves_the_table_without_them(
    with_tools: dict[str, Any], results: Path, change: dict[str, Any]
) -> None:
    run = Run(PLAIN, "natural", "sdnq", "w4a8", "common", TOOL)
    assert read_speed(results, run) is not None
    (run.folder(results) / "speed.json").write_text(json.dumps(tool_speed(123.0) | change))
    assert read_speed(results, run) is None
    row = next(row for row in load_table(with_tools, "tools", results).blocks[0].rows if row.get("key") == run)
    assert row["state"] == "ok" and row["speed_real"] is None
