"""From chunks of clips to metrics.json: all scores or none, paired with full precision, failures handed on."""

import dataclasses

import numpy as np
import pytest
import torch

from qdit.core.errors import DataError
from qdit.core.failure import Failure
from qdit.core.files import read_json, save_tensors
from qdit.core.intervals import read_resamples
from qdit.core.seeds import Purpose, torch_generator
from qdit.metrics.clip_run import evaluate_clips
from qdit.metrics.job import EvaluateJob, RunName
from qdit.metrics.similarity import ssim_per_image
from qdit.mini.training.video_instruments import initialize
from qdit.mini.vbench.evaluate import ClipSet
from qdit.mini.vbench.networks import Instruments
from qdit.mini.vbench.run import MiniVBench, clips_of_prompts, paired_errors, read_clips
from qdit.mini.vbench.suites import suite_prompts
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.quant.folder import write_failure
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.run import SampleJob, sample_checkpoint
from tests.small_video_models import TINY_VIDEO, random_stdit3

OTHER_PAIRED = ("mind_fp", "psnr_fp", "ssim_fp")
CONFIG = dataclasses.replace(TINY_VIDEO, depth=1, patch_size=4, text_width=64, text_tokens=9, pixels_per_cell=1)
PROTOCOL = FlowProtocol(frames=8, height=16, width=16, fps=8, steps=1, cfg_scale=1.0, shift=2.5)
PROMPTS = suite_prompts("scene", 2)
RECORD = {
    "method": "rtn",
    "weight_bits": 4,
    "activation_bits": 8,
    "scope": "common",
    "options": {},
    "allocation_sha256": None,
    "code": "0",
    "weights_sha256": "1",
    "calibration_sha256": {},
}
ASKED = clips_of_prompts(PROMPTS, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoints, chunks of two models, and instruments without training."""
    folder = tmp_path_factory.mktemp("video-run")
    for name, seed in (("own", 1), ("full", 0)):
        bits = {} if name == "own" else {"method": "fp", "weight_bits": 16, "activation_bits": 16}
        save_checkpoint(folder / name, Quantized(random_stdit3(CONFIG, seed=seed)), RECORD | bits)
        sample_checkpoint(SampleJob(folder / name, folder / name / "samples", PROTOCOL, chunk=3, prompts=ASKED))
    network = Instruments()
    initialize(network, torch_generator(0, Purpose.TRAINING))
    save_tensors(folder / "instruments.safetensors", network.state_dict())
    return folder


def evaluated(made, out, *, own="own", **changes):
    name = RunName(setting="a", model="b", form="natural", label="c")
    each = changes.pop("clips_per_prompt", 2)
    arguments = {"fp_samples": made / "full" / "samples", "resamples": 20, **changes}
    job = EvaluateJob(made / own / "samples", made / own, out, name, **arguments)
    evaluate_clips(job, MiniVBench(PROMPTS, each, made / "instruments.safetensors"))
    return read_json(out)


def test_metrics_are_the_scores_of_the_suite_and_the_paired_distance(made, tmp_path):
    record = evaluated(made, tmp_path / "metrics.json", resamples=200)
    dimensions = {"background_consistency", "scene", "human_action"}
    assert set(record["metrics"]) == {*dimensions, "mfvd", "fd_fp", "mse_fp", *OTHER_PAIRED}
    assert set(record["intervals"]) == set(record["metrics"])
    assert all(
        low - 1e-9 <= record["metrics"][name] <= high + 1e-9 for name, (low, high) in record["intervals"].items()
    )
    assert record["metrics"]["fd_fp"] > 0 and record["size"]["paper_mb"] > 0 < record["protocol"]["clip_flops"]
    kept = read_resamples(tmp_path)
    assert (
        kept is not None
        and set(kept.values) == set(record["metrics"])
        and kept.pairing == record["bootstrap"]["pairing"]
    )
    own, full = (read_clips(made / name / "samples", clips=4).frames.numpy() / 255 for name in ("own", "full"))
    assert record["metrics"]["mse_fp"] == pytest.approx(float(np.mean((own - full) ** 2)))
    same = ssim_per_image(
        *((of * 255).round().swapaxes(1, 2).reshape(-1, 3, 16, 16).astype(np.uint8) for of in (own, full))
    )
    assert record["metrics"]["ssim_fp"] == pytest.approx(same.mean()) and record["paired"] == {"ssim_window": 11}
    assert record["metrics"]["mind_fp"] > 0
    assert record["run"]["method"] == "rtn" and record["run"]["label"] == "c"
    assert record["protocol"]["evaluator"]["name"] == "mini-VBench (moving digits)"
    assert record["protocol"]["images"] == 4 and record["protocol"]["prompts"]["count"] == 2
    assert set(record["real_clips"]) == dimensions


def test_full_precision_is_at_distance_zero_from_itself(made, tmp_path):
    itself = evaluated(made, tmp_path / "a.json", own="full")["metrics"]
    assert itself["mse_fp"] == itself["fd_fp"] == itself["mind_fp"] == 0 and itself["ssim_fp"] == pytest.approx(1)
    assert itself["psnr_fp"] is None
    alone = evaluated(made, tmp_path / "b.json", fp_samples=None)["metrics"]
    assert alone["mse_fp"] is alone["fd_fp"] is None and all(alone[name] is None for name in OTHER_PAIRED)


def test_equal_inputs_give_equal_bytes(made, tmp_path):
    for name in ("a.json", "b.json"):
        evaluated(made, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_nothing_is_scored_on_fewer_or_changed_clips(made, tmp_path):
    with pytest.raises(DataError, match="shows 4 clips of prompts .*expected are 6"):
        evaluated(made, tmp_path / "a.json", clips_per_prompt=3)
    folder = made / "half"
    save_checkpoint(folder, Quantized(random_stdit3(CONFIG)), RECORD)
    options = {"chunk": 3, "chunks_per_shard": 1, "shard": 0}
    sample_checkpoint(SampleJob(folder, folder / "samples", PROTOCOL, prompts=ASKED, **options))
    with pytest.raises(DataError, match="holds 3 clips, 4 are expected"):
        evaluated(made, tmp_path / "a.json", own="half")
    (folder / "samples" / "00000.npz").write_bytes(b"cut off")
    with pytest.raises(DataError, match="not the file that its shard lists"):
        evaluated(made, tmp_path / "a.json", own="half")


def test_clips_of_other_prompts_are_not_paired():
    frames = torch.zeros(1, 3, 8, 16, 16, dtype=torch.uint8)
    one, other = (ClipSet(frames, (text,), (0,)) for text in ("a red 2, moving up", "a red 4, moving up"))
    with pytest.raises(DataError, match="different prompts"):
        paired_errors(one, other)


def test_a_recorded_failure_is_the_result(made, tmp_path):
    failure = Failure("quantize", "unsupported", "rtn: no")
    write_failure(made / "failed", failure)
    sample_checkpoint(SampleJob(made / "failed", made / "failed" / "samples", PROTOCOL, chunk=3, prompts=ASKED))
    assert evaluated(made, tmp_path / "metrics.json", own="failed") == {"error": failure.text, "status": failure.kind}
