"""VBench itself, in its own environment, on clips of the mini video model: the one dimension that needs no weights.

Opt-in, since it downloads 3.3 GB from PyPI and takes 6.1 GB on disk:
QDIT_VBENCH=FOLDER pytest -m slow tests/metrics/vbench/test_real.py makes the environment in FOLDER or takes the one
there.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdit.cli.sampling import flow
from qdit.core.errors import DataError
from qdit.core.files import read_json
from qdit.core.mp4 import read_mp4, write_mp4
from qdit.metrics.vbench.needed_weights import WEIGHTS
from qdit.metrics.vbench.results import gather, run_driver
from qdit.mini.vbench.suites import full_info, suite_prompts
from qdit.models.loading import load_model
from qdit.models.stdit3 import STDiT3
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import Batches
from qdit.sampling.clips import CLIP_PIXELS, Prompted
from qdit.sampling.prompts import words
from qdit.workflow.vbench_env import SUITE, install, python_of
from tests.workflow.checkout import Checkout, copied
from tests.workflow.tiny_video import write_tiny_video

FOLDER = os.environ.get("QDIT_VBENCH")
WEIGHTS_FILE = Path(__file__).parents[3] / "weights" / "stdit3-moving-digits-natural.safetensors"
SAMPLES = 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="downloads 3.3 GB: set QDIT_VBENCH to a folder for VBench's environment"),
]


@pytest.fixture(scope="module")
def python() -> Path:
    folder = Path(str(FOLDER))
    install(folder)
    return python_of(folder).absolute()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The shipped model's clips as MP4 and their suite; clip → closed form of VBench's score, from the frames."""
    folder = tmp_path_factory.mktemp("vbench")
    prompts = [
        replace(p, dimensions=("temporal_flickering",)) for s in ("flickering", "subject") for p in suite_prompts(s, 2)
    ]
    asked = [(prompt.text, number) for prompt in prompts for number in range(SAMPLES)]
    model = load_model(WEIGHTS_FILE)
    assert isinstance(model, STDiT3)
    batches = Batches(prepare_inference(model), flow(15, 2.5, 2.5, 0), Prompted(asked, words), CLIP_PIXELS)
    clips = batches.columns(range(len(asked)), len(asked))["frames"]
    expected = {}
    for row, clip in enumerate(clips.transpose(0, 2, 3, 4, 1)):
        frames = clip.repeat(4, axis=1).repeat(4, axis=2)
        name = f"{prompts[row // SAMPLES].text}-{row % SAMPLES}.mp4"
        write_mp4(folder / "clips" / name, frames, fps=8, lossless=True)
        expected[name] = 1 - np.abs(np.diff(frames.astype(float), axis=0)).mean() / 255
    (folder / "suite.json").write_text(json.dumps(full_info(prompts)))
    return folder, expected


def arguments(folder: Path, dimension: str, out: Path) -> list[str]:
    return [str(folder / "clips"), str(folder / "suite.json"), dimension, str(out), "--samples", str(SAMPLES)]


def test_temporal_flickering_is_the_mean_absolute_change(
    python: Path, place: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    folder, expected = place
    run_driver(python, arguments(folder, "temporal_flickering", tmp_path / "out.json"))
    found = read_json(tmp_path / "out.json")
    assert found["clips"] == pytest.approx(expected, abs=1e-6)
    assert found["score"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert found["packages"]["vbench"] == "0.1.5" and 0.8 < min(expected.values()) < 0.99
    gathered = gather([tmp_path / "out.json"])
    assert list(gathered["scores"]) == ["temporal_flickering"] and len(gathered["missing"]) == 15


def test_every_other_dimension_says_which_file_it_lacks(
    python: Path, place: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    folder, _ = place
    suite = json.loads((folder / "suite.json").read_text())
    for dimension in (name for name in WEIGHTS if WEIGHTS[name]):
        (tmp_path / "suite.json").write_text(json.dumps([row | {"dimension": [dimension]} for row in suite]))
        given = arguments(folder, dimension, tmp_path / "out.json")
        given[1] = str(tmp_path / "suite.json")
        with pytest.raises(DataError, match=f"weights of {dimension} are missing; they come from https://"):
            run_driver(python, [*given, "--weights", str(tmp_path)])


def test_the_workflow_goes_from_weights_to_vbenchs_json(python: Path, repository: Path, tmp_path: Path) -> None:
    made = Checkout(copied(repository, tmp_path))
    write_tiny_video(made.root / "data/tiny-video")
    (made.root / "real.yaml").write_text(f"vbench: {{weights: weights/vbench, python: {json.dumps(str(python))}}}\n")
    overlays = ("tests/workflow/tiny.yaml", "tests/workflow/video.yaml", "real.yaml")
    run = made.results / "runs" / "clips-cfg2.5-s15" / "natural" / "fp" / "w16a16-common"
    target = run.relative_to(made.root) / "vbench" / "temporal_flickering.json"
    made.snakemake("--cores", "1", str(target), overlays=overlays)
    found, listing = read_json(made.root / target), read_json(run / "vbench" / "clips.json")
    assert found["clips_sha256"] == {name: listing["clips"][name] for name in found["clips"]} and found["clips"]
    for name, value in found["clips"].items():
        frames = read_mp4(run / "vbench" / "clips" / name).astype(float)
        assert value == pytest.approx(1 - np.abs(np.diff(frames, axis=0)).mean() / 255, abs=1e-6)
    # Another dimension lacks its weights: one line in its log.
    done = made.snakemake("--cores", "1", str(target.with_name("motion_smoothness.json")), overlays=overlays, code=1)
    log = (run / "logs" / "vbench-motion_smoothness.log").read_text(encoding="utf-8")
    assert "weights of motion_smoothness are missing; they come from https://" in log + done.stdout
    assert log.count("error:") == 1


def test_vbenchs_own_prompts_are_beside_the_environment(python: Path) -> None:
    rows = read_json(python.parents[1] / SUITE)
    assert len(rows) == 946 and len({row["prompt_en"] for row in rows}) == 944
    assert {dimension for row in rows for dimension in row["dimension"]} == set(WEIGHTS)
