"""The parts of `qdit bench full-size`: every step of the paper profile at its real shapes, with random weights.

Random weights need the same time and memory as trained ones; only their images mean nothing. Each part is a function of
a folder and a `Scale`. It reads the files of earlier parts from the folder. It returns facts, which tests check.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qdit.bench.memory import peak_bytes
from qdit.core.errors import DataError, did_you_mean
from qdit.core.files import load_tensors, read_json, write_json
from qdit.methods.quantize import quantize_model, quantize_weights_file
from qdit.methods.registry import registry
from qdit.models.config import DiTConfig
from qdit.models.diffusers_format import WEIGHTS_FILE
from qdit.models.dit import DiT, sincos_positions
from qdit.models.loading import import_official, to_diffusers
from qdit.quant.checkpoint import Quantized, load_checkpoint, quantized_sites, save_checkpoint
from qdit.quant.folder import CONFIG_FILE, TENSORS_FILE, with_digest
from qdit.quant.sites import prepare_inference
from qdit.quant.size import size_actual_mb, size_predicted_mb
from qdit.sampling.calibration import CalibrateJob, calibrate_weights_file, collect
from qdit.sampling.guidance import denoiser
from qdit.sampling.images import load_decoder
from qdit.sampling.noise import initial_noise
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import trajectory
from qdit.sampling.schedule import respaced

Facts = dict[str, Any]
WEIGHT_BITS, ACTIVATION_BITS = 4, 8
SEED = 0

SD_VAE = {
    "act_fn": "silu",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 256,
}
"""Configuration of stabilityai/sd-vae-ft-mse and -ema."""


@dataclass(frozen=True)
class Scale:
    """Shapes and amounts of work. The defaults are DiT-XL/2's shapes and 16 calibration latents.

    `shallow` is a model with two blocks, on which every method runs. `effort` holds options of the methods, so small
    that a part measures only the cost of a step, not its result.
    """

    dit: DiTConfig = field(default_factory=DiTConfig)
    larger_input: int = 64
    group_size: int = 128
    samples: int = 16
    steps: int = 4
    effort: Mapping[str, int] = field(
        default_factory=lambda: {"iterations": 4, "batch": 2, "rounds": 1, "groups": 2, "per_group": 1}
    )
    vae: Mapping[str, Any] = field(default_factory=lambda: SD_VAE)
    decoded_side: int = 8

    @property
    def shallow(self) -> DiTConfig:
        """Configuration of a model with the same width but only two blocks."""
        return dataclasses.replace(self.dit, depth=2)

    @property
    def protocol(self) -> Protocol:
        """Protocol with few steps and without guidance. Every kind of calibration set then has `samples` latents."""
        return Protocol(steps=self.steps, cfg_scale=1.0, seed=SEED)

    @property
    def shallow_protocol(self) -> Protocol:
        """Protocol with two steps, for the model with two blocks."""
        return Protocol(steps=2, cfg_scale=1.0, seed=SEED)


FULL = Scale()
QUICK = Scale(
    dit=DiTConfig(input_size=8, hidden_size=48, depth=3, num_heads=2, num_classes=10),
    larger_input=16,
    group_size=8,
    samples=4,
    vae={**SD_VAE, "block_out_channels": (32,) * 4, "layers_per_block": 1},
    decoded_side=2,
)
"""Tiny: shows that everything works, measures nothing."""

SCALES = {"full": FULL, "quick": QUICK}


class Stages:
    """Measures the stages of a part: wall and CPU seconds, and the peak memory of the process after each stage."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        self.done.append({"stage": name, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes()})


def random_dit(config: DiTConfig) -> DiT:
    """Build a DiT with random weights (standard deviation 1/√inputs) and small biases: every layer has an effect."""
    draw = torch.Generator().manual_seed(SEED)
    with torch.device("meta"):
        model = DiT(config)
    model = model.to_empty(device="cpu").requires_grad_(False)
    for name, parameter in model.named_parameters():
        spread = 0.02 if name.endswith("bias") else parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, std=spread, generator=draw)
    model.pos_embed = sincos_positions(config.hidden_size, config.input_size // config.patch_size)
    return model.eval()


def make_weights(folder: Path, scale: Scale, stage: Stages) -> Facts:
    """Write weights as their publishers do: an official `.pt` file, a diffusers folder, and a VAE's folder."""
    from diffusers import AutoencoderKL

    with stage("official .pt"):
        model = random_dit(scale.dit)
        torch.save(model.state_dict(), folder / "official.pt")
    with stage("diffusers folder"):
        to_diffusers(model, folder / "diffusers")
    with stage("VAE"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        vae: Any = AutoencoderKL(**scale.vae)
        vae.save_pretrained(folder / "vae")
    return {
        "parameters": sum(tensor.numel() for tensor in model.state_dict().values()),
        "vae_parameters": sum(p.numel() for p in vae.parameters()),
        "official_mb": (folder / "official.pt").stat().st_size / 1e6,
    }


def import_pt(folder: Path, scale: Scale, stage: Stages) -> Facts:
    """Convert the official `.pt` file to our safetensors format."""
    with stage("import"):
        import_official(folder / "official.pt", folder / "weights.safetensors", num_heads=scale.dit.num_heads)
    return {"file_mb": (folder / "weights.safetensors").stat().st_size / 1e6}


def import_diffusers(folder: Path, _scale: Scale, stage: Stages) -> Facts:
    """Convert the diffusers folder to our format. The tensors must equal those of the `.pt` file."""
    with stage("import"):
        import_official(folder / "diffusers", folder / "from-diffusers.safetensors")
    imported, expected = (load_tensors(folder / f"{name}.safetensors")[0] for name in ("from-diffusers", "weights"))
    same = imported.keys() == expected.keys() and all(torch.equal(imported[name], expected[name]) for name in expected)
    (folder / "from-diffusers.safetensors").unlink()
    return {"same_tensors": same}


def calibrate(folder: Path, scale: Scale, stage: Stages) -> Facts:
    """Sample trajectories of the whole model, and write the calibration set for GPTQ."""
    path = folder / "trajectory.safetensors"
    with stage("calibrate"):
        calibrate_weights_file(
            CalibrateJob(folder / "weights.safetensors", path, "trajectory", scale.protocol, scale.samples)
        )
    x = load_tensors(path)[0]["x"]
    return {"latents": len(x), "steps": scale.steps, "finite": bool(x.isfinite().all())}


def quantize_whole(folder: Path, scale: Scale, stage: Stages, *, method: str) -> Facts:
    """Quantize every block at W4A8 in groups, by the function behind `qdit quantize`."""
    out = folder / method
    options: dict[str, Any] = {"group_size": scale.group_size}
    options |= {"activation": "dynamic"} if method == "rtn" else {}
    with stage("load, quantize, save"):
        quantize_weights_file(
            folder / "weights.safetensors",
            out,
            method,
            weight_bits=WEIGHT_BITS,
            activation_bits=ACTIVATION_BITS,
            calibration={"trajectory": folder / "trajectory.safetensors"},
            options=options,
        )
    predicted = size_predicted_mb(
        scale.dit, weight_bits=WEIGHT_BITS, group_sizes=scale.group_size, float_bits=32, positions=False
    )
    sites = read_json(out / CONFIG_FILE)["sites"]
    return {"predicted_mb": predicted, "actual_mb": size_actual_mb(out), "layers": len(sites)}


def denoising_step(folder: Path, scale: Scale, stage: Stages, *, method: str, input_size: int | None = None) -> Facts:
    """Load a checkpoint and take one guided DDIM step for one image.

    `input_size` may be another than the checkpoint's: a checkpoint does not hold the positions, so its tensors fit any
    size.
    """
    source = folder / method
    if input_size is not None:
        source = at_input_size(source, folder / f"{method}-{input_size}", input_size)
    with stage("load"):
        model = load_checkpoint(source).model
    with stage("pack"):
        prepare_inference(model)
    side = model.config.input_size
    noise = initial_noise((model.config.in_channels, side, side), SEED, range(1))
    with stage("one guided step"), torch.inference_mode():
        steps = trajectory(denoiser(model, torch.tensor([1]), 1.5), noise, respaced(50))
        (_, x), (_, after) = islice(steps, 2)
    return {
        "shape": list(after.shape),
        "finite": bool(after.isfinite().all()),
        "moved": float((after - x).abs().mean()),
    }


def larger_step(folder: Path, scale: Scale, stage: Stages) -> Facts:
    """Take the step of `denoising_step` for an image of twice the side."""
    return denoising_step(folder, scale, stage, method="rtn", input_size=scale.larger_input)


def at_input_size(source: Path, target: Path, input_size: int) -> Path:
    """Copy a checkpoint to `target` with a configuration for latents of another size. The tensors stay the same."""
    target.mkdir(exist_ok=True)
    config = read_json(source / CONFIG_FILE)
    config["model"]["config"]["input_size"] = input_size
    write_json(target / CONFIG_FILE, with_digest(config))
    (target / TENSORS_FILE).unlink(missing_ok=True)
    (target / TENSORS_FILE).hardlink_to(source / TENSORS_FILE)
    return target


def decode(folder: Path, scale: Scale, stage: Stages) -> Facts:
    """Decode a latent with the VAE and convert the image to bytes, as at the end of sampling."""
    cells = scale.decoded_side
    latent = initial_noise((scale.dit.in_channels, cells, cells), SEED, range(1))
    with stage("load"):
        decoder = load_decoder(folder / "vae" / WEIGHTS_FILE, scale.dit, dtype="float32", device=torch.device("cpu"))
    with stage("decode"):
        image = decoder(latent)
    return {
        "shape": list(image.shape),
        "dtype": str(image.dtype).removeprefix("torch."),
        "levels": len(image.unique()),
    }


def through_diffusers(folder: Path, scale: Scale, stage: Stages) -> Facts:
    """Export a checkpoint with `qdit export`, load it by `from_pretrained`, and compare the output bits."""
    from diffusers import DiTTransformer2DModel

    from qdit.diffusers import export_checkpoint

    side = scale.dit.input_size
    x = initial_noise((scale.dit.in_channels, side, side), SEED, range(1))
    inputs = (x, torch.tensor([500]), torch.tensor([1]))
    with torch.inference_mode():
        expected = load_checkpoint(folder / "rtn").model(*inputs)
        with stage("export"):
            export_checkpoint(folder / "rtn", folder / "exported")
        with stage("from_pretrained"):
            model: Any = DiTTransformer2DModel.from_pretrained(folder / "exported", local_files_only=True)
        with stage("one call"):
            output = model(*inputs).sample
    return {"same_bits": torch.equal(output, expected), "finite": bool(output.isfinite().all())}


def quantize_shallow(folder: Path, scale: Scale, stage: Stages, *, method: str) -> Facts:
    """Calibrate, quantize, save, load and run one method on the model with two blocks."""
    model, method_in_use = random_dit(scale.shallow), registry()[method]
    with stage("calibrate"):
        packed, protocol = prepare_inference(random_dit(scale.shallow)), scale.shallow_protocol
        data = {kind: collect(packed, kind, protocol, samples=scale.samples) for kind in method_in_use.calibration}
        del packed
    names = {field.name for field in dataclasses.fields(method_in_use.Options)}
    options = {key: value for key, value in scale.effort.items() if key in names}
    options |= {name: scale.group_size for name in ("group_size", "block_size") if name in names}
    bits = (16, 16) if method == "fp" else (WEIGHT_BITS, ACTIVATION_BITS)
    with stage("quantize"):
        quantized = quantize_model(
            model, method, weight_bits=bits[0], activation_bits=bits[1], calibration=data, options=options
        )
    side = scale.dit.input_size
    x = initial_noise((scale.dit.in_channels, side, side), SEED, range(2))
    inputs = (x, torch.full((2,), int(respaced(protocol.steps).timesteps[1])), torch.arange(2))
    with stage("save, load, run"), torch.inference_mode():
        out = folder / f"shallow-{method}"
        save_checkpoint(out, Quantized(quantized.model, quantized.correction, quantized.log), {"method": method})
        output, again = quantized.model(*inputs), load_checkpoint(out).model(*inputs)
    return {
        "options": json.loads(json.dumps(options)),
        "sites": len(quantized_sites(quantized.model)),
        "same_bits": torch.equal(output, again),
        "finite": bool(output.isfinite().all()),
        "actual_mb": size_actual_mb(out),
    }


Part = Callable[[Path, Scale, Stages], Facts]


def parts() -> dict[str, Part]:
    """Name → function of every part. A part comes after those whose files it reads."""
    named: dict[str, Part] = {
        "weights": make_weights,
        "import-pt": import_pt,
        "calibrate": calibrate,
        "rtn": partial(quantize_whole, method="rtn"),
        "step-256": partial(denoising_step, method="rtn"),
        "step-512": larger_step,
        "vae": decode,
        "q-dit": partial(quantize_whole, method="q-dit"),
        "step-256-q-dit": partial(denoising_step, method="q-dit"),
        "diffusers": through_diffusers,
        "import-diffusers": import_diffusers,
    }
    return named | {f"two-blocks-{name}": partial(quantize_shallow, method=name) for name in sorted(registry())}


def run_part(name: str, folder: Path, scale: Scale) -> dict[str, Any]:
    """Run a part in this process and return its stages and facts. DataError for an unknown name."""
    known = parts()
    if name not in known:
        raise DataError(f"part {name!r}: allowed are {', '.join(known)}{did_you_mean(name, known)}")
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    facts = known[name](folder, scale, stages)
    return {"stages": stages.done, "facts": facts}
