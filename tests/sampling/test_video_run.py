"""Chunks of clips: the same bits whoever computes them, kept for the same key, failures recorded."""

import dataclasses

import numpy as np
import pytest
import torch

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import load_arrays, read_json
from qdit.core.pixels import to_uint8
from qdit.mini.data.moving_digits_prompts import encode, parse_prompt
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.quant.correction import NoiseCorrection
from qdit.sampling.batch import sample_clips
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.sampling.run import SampleJob, sample_checkpoint
from tests.small_video_models import TINY_VIDEO, random_stdit3

CONFIG = dataclasses.replace(TINY_VIDEO, depth=1, patch_size=4, text_width=64, text_tokens=9, pixels_per_cell=1)
PROTOCOL = FlowProtocol(frames=8, height=16, width=16, fps=8, steps=2, cfg_scale=2.0, shift=2.5)
PROMPTS = ("a red 2, moving left", "a blue 7 on the left of a green 1, moving up, blinking")
ASKED = [(prompt, number) for prompt in PROMPTS for number in range(2)] + [(PROMPTS[0], 2)]
CATS = [("a red cat, moving left", 0)]


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", Quantized(random_stdit3(CONFIG)), {})
    return tmp_path / "checkpoint"


def sampled(checkpoint, folder, **options):
    given = {"chunk": 2, **options}
    sample_checkpoint(SampleJob(checkpoint, folder, PROTOCOL, prompts=ASKED, **given))
    return folder


def test_chunks_hold_the_clips_of_their_prompts_and_noise(checkpoint, tmp_path):
    folder = sampled(checkpoint, tmp_path / "out")
    chunks = [load_arrays(folder / f"{number:05d}.npz") for number in range(3)]
    assert [len(chunk["frames"]) for chunk in chunks] == [2, 2, 1]
    named = [pair for chunk in chunks for pair in zip(chunk["prompts"], chunk["numbers"], strict=True)]
    assert [(str(prompt), int(number)) for prompt, number in named] == ASKED
    text, mask = encode(tuple(parse_prompt(prompt) for prompt, _ in ASKED[2:4]))
    alone = sample_clips(random_stdit3(CONFIG), PROTOCOL, text, mask.bool(), [2, 3])
    # A model prepared for inference rounds differently: a pixel may fall on the other side of a whole number.
    assert (torch.from_numpy(chunks[1]["frames"]).int() - to_uint8(alone).int()).abs().max() <= 1


def test_shards_do_not_change_a_bit_and_finished_chunks_are_kept(checkpoint, tmp_path):
    whole = sampled(checkpoint, tmp_path / "whole")
    parts = tmp_path / "parts"
    for shard in (2, 0, 1):
        sampled(checkpoint, parts, shard=shard, chunks_per_shard=1)
    for number in range(3):
        name = f"{number:05d}.npz"
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.npz")}
    (whole / "00001.npz").write_bytes(b"cut off")
    sampled(checkpoint, whole)
    after = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.npz")}
    assert {name for name in before if before[name] != after[name]} == {"00001.npz"}
    assert (whole / "00001.npz").read_bytes() == (parts / "00001.npz").read_bytes()


def test_a_correction_of_the_checkpoint_is_applied(checkpoint, tmp_path):
    correction = NoiseCorrection(slope=torch.zeros(2), bias=torch.full((2, 3), 0.5), residual=torch.zeros(2))
    save_checkpoint(tmp_path / "corrected", Quantized(random_stdit3(CONFIG), correction), {})
    plain, other = sampled(checkpoint, tmp_path / "a"), sampled(tmp_path / "corrected", tmp_path / "b")
    first, second = (load_arrays(folder / "00000.npz")["frames"].astype(np.int64) for folder in (plain, other))
    assert (second - first).mean() < -1, "half a unit less velocity towards the data"
    with pytest.raises(ConfigError, match="made for 2 steps"):
        longer = dataclasses.replace(PROTOCOL, steps=3)
        sample_checkpoint(SampleJob(tmp_path / "corrected", tmp_path / "c", longer, chunk=2, prompts=ASKED))


def test_clips_that_diverge_are_an_error_or_a_record(tmp_path):
    model = random_stdit3(CONFIG)
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(3e38)
    save_checkpoint(tmp_path / "bad", Quantized(model), {})
    with pytest.raises(DataError, match="NaN or infinity"):
        sampled(tmp_path / "bad", tmp_path / "out")
    sampled(tmp_path / "bad", tmp_path / "out", record_failure=True)
    listing = read_json(tmp_path / "out" / "shard-000.json")
    assert listing["chunks"] == [] and "NaN" in str(listing)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard": 3, "chunks_per_shard": 1}, "shard 3: 5 clips in chunks of 2 have shards 0 to 2"),
        ({"shard": -1}, "shard -1: 5 clips in chunks of 2 have shards 0 to 0"),
        ({"chunk": 0}, "clips 5, chunk 0, .*at least 1"),
    ],
)
def test_shards_beyond_the_last_are_refused(checkpoint, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        sampled(checkpoint, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_models_of_latents_and_unknown_words_are_refused(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "latent", Quantized(random_stdit3(TINY_VIDEO)), {})
    with pytest.raises(ConfigError, match="makes latents"):
        sampled(tmp_path / "latent", tmp_path / "out")
    with pytest.raises(DataError, match="unknown word 'cat'"):
        sample_checkpoint(SampleJob(checkpoint, tmp_path / "out", PROTOCOL, chunk=1, prompts=CATS))
