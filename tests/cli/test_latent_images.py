"""The paper profile in miniature: a DiT of latents and a VAE with random weights go through all steps as commands."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdit.cli import main as cli
from qdit.core import disk
from qdit.core.files import load_arrays, read_json, save_tensors, sha256_file
from qdit.metrics import extraction, reference
from qdit.metrics.features import Features, Images
from qdit.models.loading import save_model
from qdit.sampling.protocol import decoder_name
from qdit.search import job
from tests.small_latent_models import LATENT, write_vae
from tests.small_models import random_dit

Qdit = Callable[..., str]
STEPS = ("--steps", 3, "--cfg-scale", 1.5)


class Colours:
    """An extractor of RGB images of any size: means and spreads of the channels, guesses at one of three classes."""

    name, classes_are_labels = "inception-adm", False

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.sizes: set[tuple[int, ...]] = set()

    def __call__(self, images: Images) -> Features:
        values = np.asarray(images, np.float32) / 255
        self.sizes.add(values.shape[1:])
        means = values.mean(axis=(2, 3))
        return Features(np.concatenate([means, values.std(axis=(2, 3))], axis=1), means, 9 * means)


class World:
    """Files of the miniature, and the commands."""

    def __init__(self, folder: Path, qdit: Qdit) -> None:
        self.folder, self.qdit = folder, qdit
        self.vae = write_vae(folder / "vae")
        self.weights = folder / "dit.safetensors"
        save_model(self.weights, random_dit(LATENT))
        self.inception = folder / "inception.safetensors"
        save_tensors(self.inception, {})

    @property
    def extractor(self) -> tuple[object, ...]:
        return "--extractor", "inception-adm", "--extractor-weights", self.inception

    def sample(self, name: str, *more: object) -> Path:
        out = self.folder / name / "samples"
        size = ("--images", 8, "--chunk", 4, "--chunks-per-shard", 1)
        for shard in range(2):
            flags = ("--shard", shard, "--vae", self.vae, *size, *STEPS, *self.extractor, *more)
            self.qdit("sample", self.folder / name / "checkpoint", out, *flags)
        return out


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


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> list[Colours]:
    """Takes the place of Inception; every extractor that was loaded."""
    loaded: list[Colours] = []

    def load(name: str, weights: Path, *, device: str = "cpu") -> Colours:
        assert (name, device) == ("inception-adm", "cpu")
        loaded.append(Colours(sha256_file(weights)))
        return loaded[-1]

    for module in (extraction, job):
        monkeypatch.setattr(module, "load_extractor", load)
    return loaded


@pytest.fixture
def world(tmp_path: Path, qdit: Qdit) -> World:
    return World(tmp_path, qdit)


def real_images(world: World, extractor: Colours) -> Path:
    """Statistics of random images of the size that the VAE makes."""
    images = np.random.default_rng(0).integers(0, 256, size=(32, 3, 16, 16), dtype=np.uint8)
    path = world.folder / "reference.npz"
    reference.save_reference(path, reference.build_reference(images, extractor))
    return path


def test_calibrate_quantize_sample_and_evaluate_through_the_vae(world: World, colours: list[Colours]) -> None:
    qdit, folder = world.qdit, world.folder
    data = folder / "trajectory.safetensors"
    qdit("calibrate", world.weights, data, "--samples", 6, "--device", "cpu", *STEPS)
    qdit("quantize", world.weights, folder / "fp" / "checkpoint", "--method", "fp", "--bits", "w16a16")
    options = ("--calibration", f"trajectory={data}", "--options", '{"group_size": 16}', "--device", "cpu")
    qdit("quantize", world.weights, folder / "q-dit" / "checkpoint", "--method", "q-dit", *options)
    for name in ("fp", "q-dit"):
        samples = world.sample(name)
        chunk = load_arrays(samples / "00001.npz")
        assert chunk["images"].shape == (4, 3, 16, 16) and chunk["images"].dtype == np.uint8
        assert chunk["images"].std() > 0
    assert {size for picture in colours for size in picture.sizes} == {(3, 16, 16)}

    samples = folder / "q-dit" / "samples"
    flags = ("--checkpoint", folder / "q-dit" / "checkpoint", "--images", 8, *STEPS, *world.extractor)
    flags += ("--reference-file", real_images(world, colours[0]), "--fp-samples", folder / "fp" / "samples")
    out = folder / "metrics.json"
    qdit("evaluate", samples, out, *flags, "--vae", world.vae)
    record = read_json(out)
    assert record["protocol"]["decoder"] == decoder_name(world.vae)
    assert record["metrics"]["mse_fp"] > 0 and record["metrics"]["fid"] > 0

    before = out.read_bytes()
    qdit("evaluate", samples, out, *flags)
    assert out.read_bytes() == before, "the samples say which VAE decoded them"
    other = ("--vae", world.vae, "--dtype", "float16")
    assert "made with dtype float32, --dtype says float16" in qdit("evaluate", samples, out, *flags, *other, code=2)
    small = write_vae(folder / "small", sample_size=64)
    error = qdit("evaluate", samples, out, *flags, "--vae", small, code=2)
    assert "made with decoder AutoencoderKL sha256:" in error and "--vae says AutoencoderKL sha256:" in error


def test_half_precision_is_another_protocol_and_runs_on_a_cpu(world: World, colours: list[Colours]) -> None:
    world.qdit("quantize", world.weights, world.folder / "fp" / "checkpoint", "--method", "fp", "--bits", "w16a16")
    listed = [read_json(world.sample("fp", "--dtype", dtype) / "shard-000.json") for dtype in ("float32", "float16")]
    assert listed[0]["key"] != listed[1]["key"] and listed[1]["origin"]["protocol"]["dtype"] == "float16"
    data = world.folder / "half.safetensors"
    world.qdit("calibrate", world.weights, data, "--samples", 2, "--dtype", "float16", *STEPS)


@pytest.mark.parametrize("metric", ["fid", "fd_fp"])
def test_a_search_looks_at_decoded_images(metric: str, world: World, colours: list[Colours]) -> None:
    out = world.folder / "found.json"
    flags = ["--kind", "random", "--options", '{"evaluations": 2}', "--sizes", "24,16,8", "--reference-size", 16]
    flags += ["--images", 8, "--chunk", 4, "--metric", metric, "--vae", world.vae, *STEPS, *world.extractor]
    if metric == "fid":
        flags += ["--reference-file", real_images(world, Colours("x"))]
    world.qdit("search", world.weights, out, *flags)
    assert {size for picture in colours for size in picture.sizes} == {(3, 16, 16)}
    record = read_json(out)
    assert len(record["groups"]) == 8
    journals = [path.read_text().splitlines()[0] for path in world.folder.glob("found.*.jsonl")]
    assert decoder_name(world.vae) in json.dumps([json.loads(line) for line in journals])


def test_what_is_missing_is_one_line_before_anything_is_computed(
    world: World, colours: list[Colours], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, out = world.folder / "fp" / "checkpoint", world.folder / "out"
    world.qdit("quantize", world.weights, checkpoint, "--method", "fp", "--bits", "w16a16")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    commands = {
        "calibrate": (world.weights, out),
        "quantize": (world.weights, out, "--method", "fp", "--bits", "w16a16"),
        "sample": (checkpoint, out),
        "search": (world.weights, out),
        "features": (out,),
    }
    for command, arguments in commands.items():
        for device in ("cuda", "cuda:1"):
            error = world.qdit(command, *arguments, "--device", device, code=2)
            assert error.startswith(f"qdit: error: device {device}: there is no GPU here"), command
            assert error.count("\n") == 1
    monkeypatch.setenv("QDIT_DEVICE", "gpu")
    assert "device 'gpu': allowed are" in world.qdit("sample", checkpoint, out, code=2)
    monkeypatch.setenv("QDIT_DEVICE", "cpu")
    wrong = [
        (("sample", checkpoint, out, "--dtype", "bfloat16"), "dtype 'bfloat16': allowed are float32, float16"),
        (("sample", checkpoint, out, "--vae", world.folder / "vae"), "vae: no such file"),
        (
            ("sample", checkpoint, out, "--mode", "integer", "--dtype", "float16"),
            "in float32 on the CPU; leave out",
        ),
        (("search", world.weights, out, "--dtype", "float16"), "a search in half precision needs a GPU"),
    ]
    for arguments, words in wrong:
        assert words in world.qdit(*arguments, code=2)
    monkeypatch.setattr(disk, "SPARE", 1 << 60)
    for command in ("quantize", "sample"):
        error = world.qdit(command, *commands[command], code=2)
        assert "are free" in error and "make room" in error and error.count("\n") == 1
    assert not out.exists()
