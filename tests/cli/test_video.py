"""The commands of the mini video world: what they write, and one line with exit code 2 for whatever is wrong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdit.core.files import read_json, save_tensors, write_text
from qdit.core.mp4 import write_mp4
from qdit.core.seeds import Purpose, torch_generator
from qdit.methods.quantize import quantize_weights_file
from qdit.mini.training.video_instruments import initialize
from qdit.mini.vbench.evaluate import load_clips, reference_clips
from qdit.mini.vbench.networks import Instruments
from qdit.mini.vbench.suites import all_prompts, full_info, suite_prompts
from qdit.models.loading import save_model
from tests.small_video_models import TINY_VIDEO, random_stdit3

NATURAL = Path(__file__).parents[2] / "weights" / "dit-digits-natural.safetensors"


@pytest.fixture
def instruments(tmp_path):
    network = Instruments()
    initialize(network, torch_generator(0, Purpose.TRAINING))
    save_tensors(tmp_path / "mini-vbench.safetensors", network.state_dict())
    return tmp_path / "mini-vbench.safetensors"


@pytest.fixture(scope="module")
def image_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image") / "fp"
    quantize_weights_file(NATURAL, folder, "fp", weight_bits=16, activation_bits=16)
    return folder


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(full_info(suite_prompts("scene", 2))))
    return path


def test_real_clips_are_written_and_scored(qdit, tmp_path, suite, instruments):
    clips, out = tmp_path / "clips.npz", tmp_path / "scores.json"
    assert qdit("video", "clips", clips, "--suite", suite, "--samples", 1).code == 0
    assert len(load_clips(clips).frames) == 2
    options = ("--out", out, "--suite", suite, "--samples", 1, "--instruments", instruments)
    done = qdit("video", "evaluate", clips, *options)
    assert done.code == 0 and done.out.startswith("mini-VBench (moving digits)")
    record = read_json(out)
    assert record["protocol"] == "mini-VBench (moving digits)" and set(record["scores"]) == {
        "scene",
        "background_consistency",
        "human_action",
    }


def test_the_default_suite_is_vbench_json(qdit, tmp_path):
    assert qdit("video", "suite", tmp_path / "suite.json", "--prompts", 1).code == 0
    rows = read_json(tmp_path / "suite.json")
    assert all({"prompt_en", "dimension"} <= set(row) for row in rows)


def refused(outcome, *messages):
    """Whether a command ended with one line that says these things."""
    return outcome.code == 2 and outcome.err.count("\n") == 1 and all(words in outcome.err for words in messages)


def test_bad_input_is_one_line(qdit, tmp_path, suite, instruments):
    out = tmp_path / "scores.json"
    clips = tmp_path / "clips.npz"
    prompts = suite_prompts("scene", 2)
    whole = reference_clips(prompts, samples=1)
    whole.save(clips)
    options = ("--out", out, "--suite", suite, "--instruments", instruments)
    missing = qdit("video", "evaluate", clips, *options, "--samples", 2)
    assert refused(missing, "2 of 4 are missing", "nothing is scored on fewer")
    assert refused(qdit("video", "evaluate", tmp_path / "absent.npz", *options), "absent.npz", "no such file")
    absent = ("--out", out, "--suite", suite, "--instruments", tmp_path / "absent.safetensors")
    assert refused(qdit("video", "evaluate", clips, *absent, "--samples", 1), "absent.safetensors", "no such file")
    clips.write_bytes(clips.read_bytes()[:-500])
    assert refused(qdit("video", "evaluate", clips, *options), "not a readable npz")
    named = qdit("video", "clips", tmp_path / "clips.mp4", "--suite", suite, "--samples", 1)
    assert refused(named, "clips.mp4: expected a name that ends in .npz") and not (tmp_path / "clips.mp4").exists()
    suite.write_text('[{"prompt_en": "a red cow, standing still", "dimension": ["scene"]}]')
    assert refused(qdit("video", "clips", clips, "--suite", suite), "unknown word 'cow'", str(suite))
    assert not out.exists()


def test_mp4_files_are_scored_like_the_arrays_and_bad_ones_are_one_line(qdit, tmp_path, suite, instruments):
    prompts = suite_prompts("scene", 2)
    whole = reference_clips(prompts, samples=1)
    whole.save(tmp_path / "clips.npz")
    folder = tmp_path / "clips"
    assert qdit("video", "clips", folder, "--suite", suite, "--samples", 1).code == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{prompt.text}-0.mp4" for prompt in prompts)
    options = ("--suite", suite, "--samples", 1, "--instruments", instruments)
    for clips in (tmp_path / "clips.npz", folder):
        assert (
            qdit("video", "evaluate", clips, "--out", tmp_path / f"{clips.stem}{clips.suffix}.json", *options).code == 0
        )
    assert read_json(tmp_path / "clips.json")["scores"] == read_json(tmp_path / "clips.npz.json")["scores"]
    out = ("--out", tmp_path / "bad.json")
    first, second = sorted(folder.iterdir())
    kept = first.read_bytes()
    first.unlink()
    assert refused(
        qdit("video", "evaluate", folder, *out, *options), "1 of 2 are missing", "nothing is scored on fewer"
    )
    write_mp4(first, np.zeros((7, 16, 16, 3), np.uint8), fps=8, lossless=True)
    assert refused(qdit("video", "evaluate", folder, *out, *options), "has 7 frames, allowed are exactly 8")
    write_mp4(first, np.zeros((8, 32, 16, 3), np.uint8), fps=8, lossless=True)
    assert refused(qdit("video", "evaluate", folder, *out, *options), "frames are (32, 16), allowed is (16, 16)")
    first.write_bytes(kept[: len(kept) // 2])
    assert refused(qdit("video", "evaluate", folder, *out, *options), str(first))
    first.unlink()
    second.rename(folder / "clip.mp4")
    assert refused(qdit("video", "evaluate", folder, *out, *options), "'<prompt>-<number>.mp4'")
    assert not (tmp_path / "bad.json").exists()


def test_the_shipped_suite_is_the_default_one():
    shipped = Path(__file__).parents[2] / "config" / "mini-vbench.json"
    assert read_json(shipped) == full_info(all_prompts())


def test_a_table_without_clips_has_no_mp4(qdit, tmp_path):
    call = ("video", "mp4", "table2", tmp_path / "clips", "--results", tmp_path)
    assert refused(qdit(*call), "found no result")
    write_text(tmp_path / "runs" / "setting" / "form" / "rtn" / "w4a8-common" / "metrics.json", "{}")
    assert refused(qdit(*call), "shows no clips")


def test_other_weights_are_refused(qdit, tmp_path, instruments):
    assert refused(qdit("video", "ship", instruments, "--weights", tmp_path / "w"), "not a training checkpoint")
    assert refused(qdit("train", "video", tmp_path, "--model", "stdit4"), "unknown model 'stdit4'")
    natural = Path(__file__).parents[2] / "weights" / "dit-digits-natural.safetensors"
    assert refused(qdit("video", "clips", tmp_path / "c.npz", "--weights", natural), "a video model")


def test_a_video_model_goes_from_weights_to_metrics(qdit, tmp_path, suite, instruments):
    """Every step by its command: calibration of the flow, W4A8, clips, scores beside full precision."""
    config = replace(TINY_VIDEO, depth=1, patch_size=4, text_width=64, text_tokens=9, pixels_per_cell=1)
    weights, data = tmp_path / "model.safetensors", tmp_path / "trajectory.safetensors"
    save_model(weights, random_stdit3(config))
    flow = ("--steps", 2, "--cfg-scale", 1.5)
    assert qdit("calibrate", weights, data, "--samples", 4, *flow).code == 0
    for name, method, bits in (("fp", "fp", "w16a16"), ("rtn", "rtn", "w4a8")):
        options = ("--method", method, "--bits", bits, "--calibration", f"trajectory={data}")
        assert qdit("quantize", weights, tmp_path / name, *options).code == 0
        prompts = ("--suite", suite, "--samples", 1, *flow)
        assert qdit("sample", tmp_path / name, tmp_path / name / "samples", *prompts).code == 0
    out = tmp_path / "metrics.json"
    options = (
        "--checkpoint",
        tmp_path / "rtn",
        "--fp-samples",
        tmp_path / "fp" / "samples",
        "--instruments",
        instruments,
    )
    assert qdit("evaluate", tmp_path / "rtn" / "samples", out, *options, *prompts).code == 0
    record = read_json(out)
    assert record["run"]["weight_bits"] == 4 and record["protocol"]["steps"] == 2
    assert record["metrics"]["mse_fp"] > 0 and 0 <= record["metrics"]["scene"] <= 1
    for flag, value in (("--reference-file", data), ("--extractor", "digit-classifier"), ("--lpips", data)):
        outcome = qdit("evaluate", tmp_path / "rtn" / "samples", tmp_path / "m.json", *options, *prompts, flag, value)
        assert refused(outcome, f"{flag}: {tmp_path / 'rtn' / 'samples'} holds clips, and clips have no such option")
    again = tmp_path / "again.safetensors"
    assert qdit("video", "calibrate", weights, again, "--samples", 4, *flow).code == 0
    assert again.read_bytes() == data.read_bytes(), "the old name of the same command"
    for flag, value in (
        ("--sampler", "ddim"),
        ("--images", 4),
        ("--extractor", "digit-classifier"),
        ("--mode", "integer"),
    ):
        outcome = qdit("sample", tmp_path / "rtn", tmp_path / "other", flag, value)
        assert refused(outcome, f"{flag}: {tmp_path / 'rtn'} holds a video model (STDiT3), which makes clips")
    outcome = qdit("calibrate", weights, tmp_path / "other", "--sampler", "ddim")
    assert refused(outcome, f"--sampler: {weights} holds a video model (STDiT3)", "leave it out")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--suite", "suite.json"),
        ("--samples", 2),
        ("--text-embeddings", "text.safetensors"),
        ("--shift", 2.0),
        ("--frames", 8),
        ("--height", 16),
        ("--width", 16),
        ("--fps", 8),
    ],
)
def test_images_have_no_options_of_clips(qdit, tmp_path, image_checkpoint, flag, value):
    outcome = qdit("sample", image_checkpoint, tmp_path / "out", flag, value)
    assert refused(
        outcome, f"{flag}: {image_checkpoint} holds an image model (DiT), which makes images", "leave it out"
    )
    if flag not in ("--suite", "--samples"):
        assert refused(
            qdit("calibrate", NATURAL, tmp_path / "out", flag, value), f"{flag}: {NATURAL} holds an image model"
        )
    assert not (tmp_path / "out").exists()
