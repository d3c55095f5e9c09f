"""From VBench's results and the sample chunks of a run to metrics.json: all sixteen of this run's clips, or none."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.failure import Failure
from qdit.core.files import read_json, save_arrays, sha256_file, sha256_json, write_json
from qdit.core.intervals import read_resamples
from qdit.core.metrics import DIMENSIONS, TOTALS
from qdit.metrics.clip_run import evaluate_clips
from qdit.metrics.job import EvaluateJob, RunName, open_run
from qdit.metrics.vbench.clips import write_clips
from qdit.metrics.vbench.results import gather, normalised
from qdit.metrics.vbench.run import VBenchScores
from qdit.metrics.vbench_totals import totals
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.quant.folder import checkpoint_sha256, write_failure
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.origin import Origin, facts_of, origin_key
from tests.small_video_models import TINY_VIDEO, random_stdit3

CONFIG = dataclasses.replace(TINY_VIDEO, depth=1, patch_size=4, text_width=64, text_tokens=9, pixels_per_cell=1)
PROTOCOL = FlowProtocol(frames=4, height=16, width=16, fps=24, steps=3, cfg_scale=7.0, shift=2.5)
PROMPTS = ("a red bird", "a person is running", "an alley, zoom in")
SAMPLES, CHUNK = 2, 4
CLIPS = len(PROMPTS) * SAMPLES
RECORD = {"method": "q-dit", "weight_bits": 4, "activation_bits": 8, "scope": "common", "options": {}}
RECORD |= {"allocation_sha256": None, "code": "0", "weights_sha256": "1", "calibration_sha256": {}}
PIXELS = ("mse_fp", "psnr_fp", "ssim_fp")
POOLED = "motion_smoothness"
"""A dimension whose score is made no mean of its clips' scores."""


def frames_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(CLIPS, 3, 4, 16, 16), dtype=np.uint8)


def write_samples(folder: Path, frames: np.ndarray, *, prompts: tuple[str, ...] = PROMPTS, chunk: int = CHUNK) -> None:
    """Chunks and the list of them, as sampling writes them."""
    names = [(prompt, number) for prompt in prompts for number in range(SAMPLES)]
    chunks = []
    for first in range(0, CLIPS, chunk):
        own, path = names[first : first + chunk], folder / f"{first // chunk:05d}.npz"
        columns = {"frames": frames[first : first + chunk], "prompts": np.array([prompt for prompt, _ in own])}
        save_arrays(path, columns | {"numbers": np.array([number for _, number in own])})
        chunks.append({"file": path.name, "sha256": sha256_file(path)})
    listing = {"images": CLIPS, "chunk": chunk, "mode": "simulate", "backend": "torch", "chunks": chunks}
    write_json(folder / "shard-000.json", listing)
    prompts = {"count": len(names), "sha256": sha256_json([list(pair) for pair in names])}
    mode = {"name": "simulate", "backend": "torch"}
    origin = Origin("stdit3", facts_of(PROTOCOL), (3, 4, 16, 16), chunk, "unknown", {}, mode, "0", prompts)
    say_origin(folder, **origin.to_dict())


def say_origin(folder: Path, **changes: Any) -> None:
    """Write into the list of a folder what its samples were made of."""
    path = folder / "shard-000.json"
    origin = read_json(path).get("origin", {}) | changes
    change(path, origin=origin, key=origin_key(origin))


def dimension_result(dimension: str, place: Path, number: int) -> dict[str, Any]:
    """What the driver writes: scores of 0 to 1 that the clip's name and the dimension decide, color skips one clip."""
    listing = read_json(place / "vbench" / "clips.json")
    names = sorted(listing["clips"])
    scored = {name: float((7 * place_in + number) % 11) / 10 for place_in, name in enumerate(names)}
    skipped = [names[0]] if dimension == "color" else []
    scored = {name: value for name, value in scored.items() if name not in skipped}
    value = float(np.mean(list(scored.values())))
    if dimension == "imaging_quality":
        scored = {name: 100 * own for name, own in scored.items()}
    found = {"dimension": dimension, "score": value + 0.01 * (dimension == POOLED), "clips": scored, "skipped": skipped}
    found |= {"samples": SAMPLES, "suite_sha256": sha256_file(place / "suite.json"), "packages": {"vbench": "0.1.5"}}
    return found | {"clips_sha256": {name: listing["clips"][name] for name in names}, "weights_sha256": {}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vbench-run") / "checkpoint"
    save_checkpoint(folder, Quantized(random_stdit3(CONFIG)), RECORD)
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Clips of a run and of full precision, and VBench's results of the run."""
    suite = [{"prompt_en": prompt, "dimension": list(DIMENSIONS)} for prompt in PROMPTS]
    (tmp_path / "suite.json").write_text(json.dumps(suite), encoding="utf-8")
    write_samples(tmp_path / "samples", frames_of(1))
    write_samples(tmp_path / "fp-samples", frames_of(0))
    listing = write_clips(tmp_path / "samples", tmp_path / "vbench" / "clips", clips=CLIPS, fps=24, lossless=True)
    write_json(tmp_path / "vbench" / "clips.json", listing)
    for number, dimension in enumerate(DIMENSIONS):
        write_json(tmp_path / "vbench" / f"{dimension}.json", dimension_result(dimension, tmp_path, number))
    gathered(tmp_path)
    return tmp_path


def gathered(place: Path) -> None:
    write_json(place / "vbench.json", gather([place / "vbench" / f"{dimension}.json" for dimension in DIMENSIONS]))


def change(path: Path, **values: Any) -> None:
    write_json(path, read_json(path) | values)


def evaluated(place: Path, checkpoint: Path, **changes: Any) -> dict[str, Any]:
    each = changes.pop("clips_per_prompt", SAMPLES)
    given = {"fp_samples": place / "fp-samples", "resamples": 40, "count": CLIPS} | changes
    for folder in (place / "samples", given["fp_samples"]):
        if folder is not None:
            say_origin(folder, checkpoint_sha256=checkpoint_sha256(checkpoint))
    name = RunName(setting="a", model="b", form="natural", label="q-dit")
    job = EvaluateJob(place / "samples", checkpoint, place / "metrics.json", name, **given)
    listing = place / "vbench" / "clips.json"
    evaluate_clips(job, VBenchScores(place / "suite.json", each, place / "vbench.json", listing))
    return dict(read_json(place / "metrics.json"))


def test_metrics_are_vbenchs_scores_its_totals_and_the_paired_distance(place: Path, checkpoint: Path) -> None:
    found = evaluated(place, checkpoint)
    scores = read_json(place / "vbench.json")["scores"]
    assert {name: found["metrics"][name] for name in DIMENSIONS} == scores
    assert {name: found["metrics"][name] for name in TOTALS} == totals(normalised(scores))
    gap = frames_of(1) / 255 - frames_of(0) / 255
    assert found["metrics"]["mse_fp"] == pytest.approx(float(np.mean(gap**2)), rel=1e-12)
    assert found["metrics"]["mfvd"] is found["metrics"]["fd_fp"] is None
    assert found["protocol"]["evaluator"]["name"] == "VBench 0.1.5" and found["protocol"]["images"] == CLIPS
    assert found["protocol"]["prompts"]["count"] == 3 and found["protocol"]["clip_flops"] > 0
    assert found["run"]["label"] == "q-dit" and found["vbench"]["skipped"]["color"] == ["a person is running-0.mp4"]


def test_an_interval_is_there_where_the_score_is_the_mean_of_its_clips(place: Path, checkpoint: Path) -> None:
    found = evaluated(place, checkpoint)
    scored = {*DIMENSIONS, *PIXELS} - {POOLED}
    assert set(found["intervals"]) == scored, "without a dimension there is no total either"
    kept = read_resamples(place)
    assert kept is not None and kept.pairing == found["bootstrap"]["pairing"]
    assert 0 <= kept.values["imaging_quality"].min() and kept.values["imaging_quality"].max() <= 1
    low, high = found["intervals"]["scene"]
    assert low < found["metrics"]["scene"] < high
    own = read_json(place / "vbench" / f"{POOLED}.json")
    change(place / "vbench" / f"{POOLED}.json", score=own["score"] - 0.01)
    gathered(place)
    assert set(evaluated(place, checkpoint)["intervals"]) == {*DIMENSIONS, *TOTALS, *PIXELS}


def test_chunks_of_another_size_give_the_same_distance(place: Path, checkpoint: Path) -> None:
    before = evaluated(place, checkpoint)["metrics"]["mse_fp"]
    write_samples(place / "other", frames_of(0), chunk=1)
    assert evaluated(place, checkpoint, fp_samples=place / "other")["metrics"]["mse_fp"] == before
    assert evaluated(place, checkpoint, fp_samples=None)["metrics"]["mse_fp"] is None


def test_equal_inputs_give_equal_bytes(place: Path, checkpoint: Path) -> None:
    evaluated(place, checkpoint)
    before = (place / "metrics.json").read_bytes()
    evaluated(place, checkpoint)
    assert (place / "metrics.json").read_bytes() == before


def test_a_missing_dimension(place: Path, checkpoint: Path) -> None:
    write_json(place / "vbench.json", gather([place / "vbench" / f"{name}.json" for name in DIMENSIONS[:-2]]))
    with pytest.raises(DataError, match="has no score of temporal_flickering, background_consistency; a row needs all"):
        evaluated(place, checkpoint)


def test_a_dimension_on_fewer_clips(place: Path, checkpoint: Path) -> None:
    path = place / "vbench" / "scene.json"
    clips = read_json(path)["clips"]
    change(path, clips={name: value for name, value in clips.items() if name != "a red bird-1.mp4"})
    gathered(place)
    with pytest.raises(DataError, match="scene was scored on 5 of its 6 clips; nothing is shown on fewer"):
        evaluated(place, checkpoint)
    change(path, skipped=["a red bird-1.mp4"])
    gathered(place)
    with pytest.raises(DataError, match="scene was scored on 5 of its 6 clips"):
        evaluated(place, checkpoint)


def test_results_of_another_runs_clips(place: Path, checkpoint: Path) -> None:
    for dimension in DIMENSIONS:
        path = place / "vbench" / f"{dimension}.json"
        change(path, clips_sha256=read_json(path)["clips_sha256"] | {"a red bird-0.mp4": "0" * 64})
    gathered(place)
    with pytest.raises(DataError, match=r"1 of 6 clips are not those of this run, first 'a red bird-0\.mp4'"):
        evaluated(place, checkpoint)


def test_samples_that_were_made_anew(place: Path, checkpoint: Path) -> None:
    write_samples(place / "samples", frames_of(2))
    with pytest.raises(DataError, match=r"clips\.json: lists clips of another run, or of samples that were made anew"):
        evaluated(place, checkpoint)


def test_another_suite_and_another_number_of_clips(place: Path, checkpoint: Path) -> None:
    suite = place / "suite.json"
    suite.write_text(suite.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"of another suite or of an older suite\.json"):
        evaluated(place, checkpoint)


def test_full_precision_of_other_prompts(place: Path, checkpoint: Path) -> None:
    write_samples(place / "fp-samples", frames_of(0), prompts=("a cat", *PROMPTS[1:]))
    with pytest.raises(DataError, match="have prompts .* and .*; sample full precision with the protocol of"):
        evaluated(place, checkpoint)


def test_clips_of_another_protocol(place: Path, checkpoint: Path) -> None:
    half = facts_of(dataclasses.replace(PROTOCOL, dtype="float16"))
    say_origin(place / "samples", protocol=half)
    with pytest.raises(DataError, match="were made with dtype float16 and float32; sample full precision"):
        evaluated(place, checkpoint)
    with pytest.raises(ConfigError, match="was made with dtype float16, --dtype says float32; leave the flag out"):
        evaluated(place, checkpoint, fp_samples=None, stated={"dtype": "float32"})
    found = evaluated(place, checkpoint, fp_samples=None, stated={"dtype": "float16", "steps": 3, "seed": None})
    assert (found["protocol"]["dtype"], found["protocol"]["steps"]) == ("float16", 3)


def test_lists_that_were_changed_or_do_not_say(place: Path, checkpoint: Path) -> None:
    path = place / "samples" / "shard-000.json"
    evaluated(place, checkpoint)
    job = EvaluateJob(place / "samples", checkpoint, place / "metrics.json", RunName("a", "b", "natural", "c"))
    listing = read_json(path)
    change(path, origin=listing["origin"] | {"protocol": listing["origin"]["protocol"] | {"seed": 9}})
    with pytest.raises(DataError, match="what it says of its samples was changed, its key is another"):
        open_run(job)
    change(path, origin=None)
    with pytest.raises(DataError, match="does not say what its samples were made of"):
        open_run(job)
    write_json(path, listing)
    say_origin(place / "samples", checkpoint_sha256="0" * 64)
    with pytest.raises(DataError, match="was sampled from the checkpoint 000000000000…, .* is [0-9a-f]{12}…"):
        open_run(job)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"weights_sha256": "2"}, "have weights_sha256 1 and 2"),
        (
            {"method": "rtn", "weight_bits": 4, "activation_bits": 8},
            "was sampled from rtn w4a8, full precision",
        ),
    ],
)
def test_full_precision_that_is_none(place: Path, checkpoint: Path, model: dict[str, Any], words: str) -> None:
    say_origin(place / "samples", model={"weights_sha256": "1"})
    say_origin(place / "fp-samples", model={"weights_sha256": "1"} | model)
    with pytest.raises(DataError, match=words):
        evaluated(place, checkpoint)


def test_a_score_that_is_no_number(place: Path, checkpoint: Path) -> None:
    found = read_json(place / "vbench.json")
    found["results"]["scene"][1]["a red bird-0.mp4"] = None
    write_json(place / "vbench.json", found)
    with pytest.raises(DataError, match="scene has the score None, which is not a number"):
        evaluated(place, checkpoint)


def test_dimensions_of_two_runs_are_not_gathered(place: Path) -> None:
    path = place / "vbench" / "scene.json"
    change(path, clips_sha256=read_json(path)["clips_sha256"] | {"a red bird-0.mp4": "0" * 64})
    with pytest.raises(DataError, match=r"was scored on another 'a red bird-0\.mp4' than the dimensions before it"):
        gathered(place)


def test_a_recorded_failure_is_the_result(place: Path, checkpoint: Path) -> None:
    failure = Failure("sample", "failed", "it diverges")
    change(place / "samples" / "shard-000.json", **failure.to_dict(), chunks=[])
    assert evaluated(place, checkpoint) == {"error": failure.text, "status": failure.kind}
    listing = write_clips(place / "samples", place / "none", clips=CLIPS, fps=24)
    assert listing == failure.to_dict() and not (place / "none").exists()
    write_json(place / "a.json", {"dimension": "scene", **listing})
    assert gather([place / "a.json"]) == {"protocol": "VBench 0.1.5", **failure.to_dict()}
    write_failure(place / "unsupported", Failure("quantize", "unsupported", "no"))
    assert evaluated(place, place / "unsupported") == {"error": "unsupported: no", "status": "unsupported"}
