"""VBench's driver without VBench: what it refuses in one line, and what it gives to and takes from the package."""

import ast
import hashlib
import json
import os
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from qdit.core.errors import DataError
from qdit.metrics.vbench import driver
from qdit.metrics.vbench.driver import OFFLINE, BadInput
from qdit.metrics.vbench.needed_weights import GRIT, SOURCES, WEIGHTS
from qdit.metrics.vbench.results import run_driver

STILL = {"prompt_en": "a red 2, standing still", "dimension": ["temporal_flickering", "motion_smoothness"]}
COLOUR = {"prompt_en": "a red 2", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}}
SUITE = [STILL, COLOUR]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """suite.json and two clips of each prompt."""
    (tmp_path / "suite.json").write_text(json.dumps(SUITE))
    (tmp_path / "clips").mkdir()
    for row in SUITE:
        for number in range(2):
            (tmp_path / "clips" / f"{row['prompt_en']}-{number}.mp4").write_bytes(b"video")
    (tmp_path / "clips" / "notes.txt").write_text("not a clip")
    return tmp_path


def score(place: Path, dimension: str = "temporal_flickering", **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"weights": None, "samples": 2, "device": "cpu", "digests": {}}
    return driver.score(place / "clips", place / "suite.json", dimension, **(given | options))


class FakeVBench:
    """Scores each clip by its number, and keeps what it was given."""

    seen: dict[str, Any]
    unreadable: str | None = None

    def __init__(self, device: object, suite: str, results: str) -> None:
        self.suite, self.results = json.loads(Path(suite).read_text()), Path(results)

    def evaluate(self, videos: str, name: str, **options: Any) -> None:
        clips = sorted(path.name for path in Path(videos).iterdir())
        environment = {key: os.environ.get(key) for key in (*OFFLINE, "VBENCH_CACHE_DIR", "TORCH_HOME")}
        home = [
            str(path.relative_to(os.environ["TORCH_HOME"])) for path in Path(os.environ["TORCH_HOME"]).rglob("*.pth")
        ]
        type(self).seen = {"clips": clips, "suite": self.suite, "options": options, "environment": environment}
        type(self).seen |= {"cwd": Path.cwd(), "torch": home}
        rows = [
            {"video_path": f"{videos}/{clip}", "video_results": float(clip[-5])}
            for clip in clips
            if clip != self.unreadable
        ]
        mean = sum(row["video_results"] for row in rows) / len(rows)
        (self.results / f"{name}_eval_results.json").write_text(json.dumps({name: [mean, rows]}))


@pytest.fixture
def vbench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeVBench]:
    package = types.ModuleType("vbench")
    package.__spec__ = ModuleSpec("vbench", None)
    fake = type("Fake", (FakeVBench,), {})
    package.VBench = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vbench", package)
    monkeypatch.setattr(driver.importlib.metadata, "version", lambda name: "0.1.5")
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        yield fake


def test_the_score_is_that_of_exactly_the_clips_of_the_suite(place: Path, vbench: type[FakeVBench]) -> None:
    found = score(place)
    names = [f"a red 2, standing still-{number}.mp4" for number in range(2)]
    assert found["clips"] == dict(zip(names, (0.0, 1.0), strict=True)) and found["score"] == 0.5
    assert found["dimension"] == "temporal_flickering" and found["samples"] == 2 and found["skipped"] == []
    assert vbench.seen["clips"] == names and vbench.seen["suite"] == [STILL]
    assert vbench.seen["options"]["local"] is True and vbench.seen["options"]["mode"] == "vbench_standard"
    assert {vbench.seen["environment"][f"{scheme}_proxy"] for scheme in ("http", "https")} == {driver.UNREACHABLE}
    assert vbench.seen["environment"]["HF_HUB_OFFLINE"] == "1"


def test_files_may_be_given_relative_to_where_the_job_runs(
    place: Path, vbench: type[FakeVBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score(place)
    monkeypatch.chdir(place)  # VBench is run elsewhere, where its weights are
    listing = Path("listing.json")
    listing.write_text(json.dumps({"clips": digests(place)}))
    given: dict[str, Any] = {"weights": None, "samples": 2, "device": "cpu", "digests": {}, "listing": listing}
    assert driver.score(Path("clips"), Path("suite.json"), "temporal_flickering", **given) == expected


def digests(place: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (place / "clips").glob("*.mp4")}


def test_the_clips_that_were_scored_are_on_record_and_those_of_the_list(place: Path, vbench: type[FakeVBench]) -> None:
    listing = place / "listing.json"
    listing.write_text(json.dumps({"clips": digests(place)}))
    found = score(place, listing=listing)
    assert (
        found["clips_sha256"] == {name: digests(place)[name] for name in found["clips"]} == score(place)["clips_sha256"]
    )
    (place / "clips" / "a red 2, standing still-1.mp4").write_bytes(b"of another run")
    with pytest.raises(
        BadInput, match=r"standing still-1\.mp4: not the clip that .*listing\.json lists \(1 of 2 differ"
    ):
        score(place, listing=listing)
    listing.write_text("[]")
    with pytest.raises(BadInput, match="no list of clips; make it with qdit vbench clips"):
        score(place, listing=listing)


def test_the_failure_of_a_run_is_its_score(place: Path) -> None:
    failure = {"step": "sample", "kind": "failed", "reason": "it diverges"}
    (place / "listing.json").write_text(json.dumps({"failure": failure}))
    assert score(place, listing=place / "listing.json") == {"dimension": "temporal_flickering", "failure": failure}


def test_weights_are_where_vbench_looks_and_their_digests_recorded(place: Path, vbench: type[FakeVBench]) -> None:
    weights = place / "weights"
    for name in WEIGHTS["subject_consistency"]:
        (weights / name).parent.mkdir(parents=True, exist_ok=True)
        (weights / name).write_text(name)
    (place / "suite.json").write_text(json.dumps([STILL | {"dimension": ["subject_consistency"]}]))
    found = score(place, "subject_consistency", weights=weights)
    assert set(found["weights_sha256"]) == set(WEIGHTS["subject_consistency"])
    assert vbench.seen["cwd"] == weights.resolve() == Path(vbench.seen["environment"]["VBENCH_CACHE_DIR"])
    assert vbench.seen["torch"] == ["hub/checkpoints/dino_vitbase16_pretrain.pth"]
    pinned = {WEIGHTS["subject_consistency"][0]: "0" * 64}
    with pytest.raises(BadInput, match="the file is damaged or another one"):
        score(place, "subject_consistency", weights=weights, digests=pinned)


def test_a_clip_that_vbench_leaves_out_is_an_error(place: Path, vbench: type[FakeVBench]) -> None:
    vbench.unreadable = "a red 2, standing still-1.mp4"
    with pytest.raises(BadInput, match="could not read 1 clips, first 'a red 2, standing still-1.mp4'"):
        score(place)


def test_color_says_which_clips_it_left_out(
    place: Path, vbench: type[FakeVBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "require_package", lambda dimension: None)
    for name in WEIGHTS["color"]:
        (place / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "weights" / name).write_text(name)
    vbench.unreadable = "a red 2-0.mp4"
    found = score(place, "color", weights=place / "weights")
    assert found["skipped"] == ["a red 2-0.mp4"] and found["score"] == 1.0


@pytest.mark.parametrize("dimension", [name for name in WEIGHTS if WEIGHTS[name]])
def test_missing_weights_are_one_line_that_says_which_and_where_from(place: Path, dimension: str) -> None:
    (place / "suite.json").write_text(json.dumps([STILL | {"dimension": [dimension]}]))
    first = WEIGHTS[dimension][0]
    for weights, words in (
        (place / "none", [first, "missing", SOURCES[first], "qdit fetch"]),
        (None, [first, "--weights"]),
    ):
        with pytest.raises(BadInput) as caught:
            score(place, dimension, weights=weights)
        assert all(word in str(caught.value) for word in (*words, dimension)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"clips/a red 2, standing still-1.mp4": None}, {}, "1 of 2 clips are missing or empty, first 'a red 2, st"),
        ({"clips/a red 2, standing still-0.mp4": b""}, {}, "1 of 2 clips are missing or empty"),
        ({}, {"samples": 3}, "1 of 3 clips are missing"),
        ({}, {"samples": 6}, "VBench looks for 1 to 5"),
        ({}, {"dimension": "temporal_flicker"}, "no dimension of VBench; allowed are"),
        ({}, {"dimension": "scene"}, "has no prompt for scene"),
        ({"suite.json": None}, {}, "no such suite"),
        ({"suite.json": b"[{"}, {}, "not valid JSON"),
        ({"suite.json": b"[]"}, {}, "not a list of prompts"),
        ({"suite.json": b'[{"prompt": "x"}]'}, {}, "entry 0 has no prompt_en"),
        ({"suite.json": b'[{"prompt_en": "x", "dimension": ["flow"]}]'}, {}, "unknown dimension 'flow'"),
        ({"suite.json": b'[{"prompt_en": "a/b", "dimension": ["scene"]}]'}, {}, "cannot be a file name"),
        ({}, {}, "has no package vbench; make its environment with qdit vbench install"),
    ],
)
def test_bad_input_is_one_line(
    place: Path, change: dict[str, bytes | None], options: dict[str, Any], message: str
) -> None:
    for name, content in change.items():
        (place / name).unlink() if content is None else (place / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        score(place, **options)
    assert "\n" not in str(caught.value)


def test_object_detection_needs_detectron2(vbench: type[FakeVBench]) -> None:
    with pytest.raises(BadInput, match="needs the package detectron2"):
        driver.require_package("object_class")
    driver.require_package("scene")


def test_an_environment_is_looked_at_before_there_are_clips(tmp_path: Path, vbench: type[FakeVBench]) -> None:
    driver.ready("scene", tmp_path / "scene.json")
    assert json.loads((tmp_path / "scene.json").read_text())["packages"]["vbench"] == "0.1.5"
    with pytest.raises(BadInput, match="needs the package detectron2"):
        driver.ready("color", tmp_path / "color.json")
    with pytest.raises(DataError, match="has no package vbench; make its environment with qdit vbench install"):
        run_driver(Path(sys.executable), ["--ready", "scene", str(tmp_path / "out.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["scene.json"]


def test_the_driver_sees_the_gpu_that_was_leased_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    told = 'print("vbench: error: sees", os.environ["CUDA_VISIBLE_DEVICES"], *sys.argv[1:], file=sys.stderr)'
    (tmp_path / "driver.py").write_text(f"import os, sys\n{told}\nsys.exit(2)\n")
    # The launcher with two pretended GPUs and another driver.
    pretended = "from qdit.metrics.vbench import launch\nlaunch.gpus = lambda: 2\n"
    pretended += f"launch.DRIVER = {str(tmp_path / 'driver.py')!r}\nraise SystemExit(launch.main())\n"
    (tmp_path / "launch.py").write_text(pretended)
    root = Path(driver.__file__).parents[3]
    python.write_text(f'#!/bin/sh\nshift 2\nPYTHONPATH="{root}" exec {sys.executable} {tmp_path}/launch.py "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(DataError, match="^sees 7 a --device cuda$"):
        run_driver(python, ["a"], device="cuda:1")
    with pytest.raises(DataError, match="device cuda:2: there are 2 GPUs here, numbered from 0"):
        run_driver(python, ["a"], device="cuda:2")


def test_the_process_says_its_line_and_ends_with_2(place: Path) -> None:
    arguments = [str(place / "clips"), str(place / "suite.json"), "temporal_flickering", str(place / "out.json")]
    command = [sys.executable, "-I", driver.__file__, *arguments, "--samples", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("vbench: error: ") and done.stderr.count("\n") == 1
    with pytest.raises(DataError, match="has no package vbench"):
        run_driver(Path(sys.executable), [*arguments, "--samples", "2"])
    with pytest.raises(DataError, match="cannot be run"):
        run_driver(place / "bin" / "python", arguments)
    assert not (place / "out.json").exists()


def imported(path: Path) -> set[str]:
    """Names of packages that a file imports, without the standard library."""
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    return {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}


def test_the_driver_imports_only_the_standard_library_vbench_and_its_neighbour() -> None:
    """Torch for the device that vbench asks for; the neighbour by one name here and by another one there."""
    neighbour = "qdit.metrics.vbench.needed_weights"
    path = Path(driver.__file__)
    assert {name for name in imported(path) if not name.startswith("vbench")} == {
        "torch",
        "needed_weights",
        neighbour,
    }
    assert not imported(path.with_name("needed_weights.py"))


def test_every_needed_file_has_a_source() -> None:
    assert set(SOURCES) == {name for files in WEIGHTS.values() for name in files}
    assert len(WEIGHTS) == 16 and [name for name in WEIGHTS if not WEIGHTS[name]] == ["temporal_flickering"]
    assert [name for name in WEIGHTS if WEIGHTS[name] == GRIT] == [
        "spatial_relationship",
        "color",
        "multiple_objects",
        "object_class",
    ]
