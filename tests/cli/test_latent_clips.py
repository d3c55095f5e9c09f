"""A video model of latents from files to files: embeddings, calibration, W4A8, clips through the VAE, and refusals."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qdit.cli import main as cli
from qdit.core import disk
from qdit.core.errors import DataError
from qdit.core.files import load_arrays, load_tensors, read_json
from qdit.core.pixels import to_uint8
from qdit.models.text_embeddings import load_embeddings
from qdit.models.video_vae import VideoVAEConfig, save_video_vae
from qdit.models.video_vae_temporal import TemporalConfig
from qdit.quant.checkpoint import Quantized, save_checkpoint
from qdit.sampling.batch import sample_clips
from qdit.sampling.calibration import load_calibration
from qdit.sampling.clips import ClipDecoder, video_decoder_name
from qdit.sampling.run import SampleJob, origin_of
from tests.small_latent_video import (
    CLIP,
    FLOW,
    LATENT_VIDEO,
    PROMPTS,
    random_vae,
    write_embeddings,
    write_latent_video,
    write_suite,
)
from tests.small_video_models import TINY_VIDEO, random_stdit3

Qdit = Callable[..., str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a model, and a full-precision checkpoint of it."""
    folder = tmp_path_factory.mktemp("latent-video")
    write_latent_video(folder)
    save_checkpoint(folder / "fp", Quantized(random_stdit3(LATENT_VIDEO)), {})
    return folder


@pytest.fixture
def qdit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qdit:
    """Run a command in this process; `code` it must end with; returns its stderr."""
    monkeypatch.setenv("QDIT_DEVICE", "cpu")

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        errors = capsys.readouterr().err
        assert stopped.value.code == code, errors
        return errors

    return call


def sources(folder: Path) -> tuple[object, ...]:
    return "--suite", folder / "suite.json", "--text-embeddings", folder / "text.safetensors"


def flags(folder: Path) -> tuple[object, ...]:
    """Everything that decides the clips: three prompts, two clips of each, in chunks of two."""
    return *sources(folder), "--vae", folder / "vae.safetensors", "--samples", 2, "--chunk", 2, *CLIP


def test_calibrate_quantize_and_sample(files: Path, qdit: Qdit, tmp_path: Path) -> None:
    weights = files / "stdit3.safetensors"
    options = ["--text-embeddings", files / "text.safetensors", *CLIP]
    for kind, samples in (("trajectory", 3), ("ndtc", 3)):
        qdit("calibrate", weights, tmp_path / kind, "--kind", kind, "--samples", samples, *options)
    data = load_calibration(tmp_path / "trajectory", LATENT_VIDEO)
    embeddings = load_embeddings(files / "text.safetensors", width=12, most=7)
    text, mask = embeddings.batch(PROMPTS)
    assert torch.equal(data.conditions[0], text) and torch.equal(data.conditions[1], mask)
    assert data.x.shape == (3, 4, 2, 2, 3) and data.protocol == FLOW

    for method, extra in (("fp", ["--bits", "w16a16"]), ("q-dit", ["--options", '{"group_size": 8}'])):
        sets = [f"--calibration={kind}={tmp_path / kind}" for kind in ("trajectory", "ndtc")]
        qdit("quantize", weights, tmp_path / method, "--method", method, *sets, *extra)
        qdit("sample", tmp_path / method, tmp_path / method / "samples", *flags(files))
    full, low = (load_arrays(tmp_path / method / "samples" / "00001.npz") for method in ("fp", "q-dit"))
    assert full["frames"].shape == (2, 3, 6, 16, 24) and full["frames"].dtype == np.uint8
    assert list(full["prompts"]) == [PROMPTS[1]] * 2 and list(full["numbers"]) == [0, 1] and full["first"] == 2
    assert 0 < np.abs(full["frames"].astype(int) - low["frames"]).mean() < 60


def test_clips_are_the_vaes_of_what_the_model_makes(files: Path, qdit: Qdit, tmp_path: Path) -> None:
    qdit("sample", files / "fp", tmp_path, *flags(files))
    text, mask = load_embeddings(files / "text.safetensors", width=12, most=7).batch([PROMPTS[2]] * 2)
    model = random_stdit3(LATENT_VIDEO)
    latents = sample_clips(model, FLOW, text, mask, [4, 5])
    with torch.no_grad():
        expected = to_uint8(random_vae().decode(latents, 6)).numpy()
    content = load_arrays(tmp_path / "00002.npz")["frames"]
    # A model prepared for inference rounds differently: a pixel may fall on the other side of a whole number.
    assert np.abs(content.astype(int) - expected).max() <= 1 and expected.std() > 5
    listing = read_json(tmp_path / "shard-000.json")
    protocol = listing["origin"]["protocol"]
    assert protocol["decoder"] == video_decoder_name(files / "vae.safetensors") and listing["images"] == 6
    assert len(listing["chunks"]) == 3 and protocol["dtype"] == "float32"


def test_one_job_or_two_in_any_order_give_the_same_bytes(files: Path, qdit: Qdit, tmp_path: Path) -> None:
    single, several = tmp_path / "one", tmp_path / "two"
    qdit("sample", files / "fp", single, *flags(files))
    for shard in (1, 0):
        qdit("sample", files / "fp", several, *flags(files), "--chunks-per-shard", 2, "--shard", shard)
    chunks = {path.name: path.read_bytes() for path in sorted(single.glob("*.npz"))}
    assert list(chunks) == ["00000.npz", "00001.npz", "00002.npz"]
    assert {path.name: path.read_bytes() for path in sorted(several.glob("*.npz"))} == chunks
    kept = {path: path.stat().st_mtime_ns for path in several.glob("*.npz")}
    (several / "00001.npz").write_bytes(b"cut off")
    qdit("sample", files / "fp", several, *flags(files))
    assert (several / "00001.npz").read_bytes() == chunks["00001.npz"]
    assert {path.name for path, time in kept.items() if path.stat().st_mtime_ns != time} == {"00001.npz"}


def test_half_precision_is_near_float32_and_not_it(files: Path, qdit: Qdit, tmp_path: Path) -> None:
    frames, keys = {}, set()
    for dtype in ("float32", "float16", "bfloat16"):
        qdit("sample", files / "fp", tmp_path / dtype, *flags(files), "--dtype", dtype)
        frames[dtype] = load_arrays(tmp_path / dtype / "00000.npz")["frames"].astype(int)
        keys.add(read_json(tmp_path / dtype / "shard-000.json")["key"])
    assert len(keys) == 3
    for dtype in ("float16", "bfloat16"):
        assert 0 < np.abs(frames[dtype] - frames["float32"]).mean() < 3
    options = ("--samples", 2, "--dtype", "bfloat16", "--text-embeddings", files / "text.safetensors", *CLIP)
    qdit("calibrate", files / "stdit3.safetensors", tmp_path / "half", *options)
    assert load_tensors(tmp_path / "half")[1]["protocol"]["dtype"] == "bfloat16"


def test_keys_know_texts_decoder_and_kind_of_device(files: Path, tmp_path: Path) -> None:
    clips = [(PROMPTS[0], 0)]
    text, other = files / "text.safetensors", write_embeddings(tmp_path / "other.safetensors", PROMPTS[:1])

    def key(**changes: object) -> str:
        job = SampleJob(files / "fp", tmp_path, FLOW, chunk=2, prompts=clips, embeddings=text)
        return origin_of(replace(job, **changes)).key

    gpus = {key(device=f"cuda:{number}") for number in (0, 3)}
    assert len(gpus) == 1 and len(gpus | {key(), key(embeddings=other), key(embeddings=None)}) == 4
    assert video_decoder_name(None) == "none"
    shutil.copy(files / "vae.safetensors", tmp_path / "model.safetensors")
    names = {video_decoder_name(path) for path in (files / "vae.safetensors", tmp_path / "model.safetensors")}
    assert len(names) == 1 and names.pop().startswith("OpenSoraVAE sha256:")


def other_vae(folder: Path) -> Path:
    """A VAE whose latents are a quarter as large."""
    config = VideoVAEConfig(
        spatial_widths=(4, 8),
        spatial_layers=1,
        spatial_groups=2,
        temporal=TemporalConfig(filters=4, res_blocks=1, groups=2),
    )
    save_video_vae(folder / "other-vae.safetensors", random_vae(config))
    return folder / "other-vae.safetensors"


def test_what_does_not_fit_is_one_line_before_anything_is_sampled(
    files: Path, qdit: Qdit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, text, vae = tmp_path / "out", files / "text.safetensors", files / "vae.safetensors"
    wide = write_embeddings(tmp_path / "wide.safetensors", width=16)
    few = write_embeddings(tmp_path / "few.safetensors", PROMPTS[:2])
    slash = write_suite(tmp_path / "slash.json", ["a cat / a dog"])
    usual = {"--suite": files / "suite.json", "--text-embeddings": text, "--vae": vae}
    wrong = [
        ({"--vae": None}, "makes latents of 4 channels and reads the tokens of a text encoder; give --vae"),
        ({"--text-embeddings": None, "--suite": None}, "give --text-embeddings"),
        ({"--suite": None}, "--text-embeddings without --suite"),
        ({"--suite": slash}, "cannot be a file name"),
        ({"--suite": tmp_path / "none.json"}, "no such suite"),
        ({"--text-embeddings": wide}, "tokens are 16 wide"),
        ({"--text-embeddings": few}, f"few.safetensors: prompt {PROMPTS[2]!r} has no embedding among 2"),
        ({"--text-embeddings": tmp_path / "none.safetensors"}, "none.safetensors: no such file; qdit video embed"),
        ({"--vae": tmp_path / "none.safetensors"}, "none.safetensors: no such file"),
        ({"--vae": text}, "text.safetensors"),
        ({"--vae": other_vae(tmp_path)}, "give the VAE that the model was trained with"),
        ({"--dtype": "float8"}, "dtype 'float8': allowed are float32, float16, bfloat16"),
        ({"--frames": 0}, "frames 0: must be at least 1"),
    ]
    for changes, words in wrong:
        chosen = [word for pair in ({**usual, **changes}).items() if pair[1] is not None for word in pair]
        error = qdit("sample", files / "fp", out, *CLIP, *chosen, code=2)
        assert error.startswith("qdit: error: ") and error.count("\n") == 1 and words in error, (changes, error)
    error = qdit("sample", tmp_path / "fp", out, *flags(files), code=2)
    assert "fp" in error and error.count("\n") == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for command in ("sample", "calibrate", "video embed"):
        arguments = {"sample": (files / "fp", out), "calibrate": (files / "stdit3.safetensors", out)}
        named = arguments.get(command, (files / "suite.json", out, "--encoder", tmp_path))
        more = () if command == "video embed" else ("--text-embeddings", text)
        suite = ("--suite", files / "suite.json") if command == "sample" else ()
        error = qdit(*command.split(), *named, *more, *suite, "--device", "cuda", code=2)
        assert error.startswith("qdit: error: device cuda: there is no GPU here") and error.count("\n") == 1
    monkeypatch.setattr(disk, "SPARE", 1 << 60)
    error = qdit("sample", files / "fp", out, *flags(files), code=2)
    assert "the clips of a shard need" in error and "make room" in error
    assert not out.exists()


def test_models_of_pixels_take_neither_texts_nor_vae(files: Path, qdit: Qdit, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_VIDEO, pixels_per_cell=1)
    save_checkpoint(tmp_path / "pixels", Quantized(random_stdit3(config)), {})
    error = qdit("sample", tmp_path / "pixels", tmp_path / "out", *flags(files), code=2)
    assert "--text-embeddings and --vae" in error and "leave them out" in error and error.count("\n") == 1
    weights = files / "stdit3.safetensors"
    error = qdit("calibrate", weights, tmp_path / "out", "--samples", 2, code=2)
    assert "texts are 64 wide, the model takes 12" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_clips_that_overflow_in_the_vae_are_an_error() -> None:
    decoder = ClipDecoder(random_vae().half(), 6, "float16")
    with pytest.raises(DataError, match=r"decoded clips hold NaN or infinity.*take --dtype bfloat16"):
        decoder(torch.full((1, 4, 2, 2, 3), 1e6))
