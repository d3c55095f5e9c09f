"""Sections of `qdit bench gpu` about networks: DiT-XL/2 in every mode, guided sampling, learned rounding, decoding."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qdit.bench.gpu_clock import Scale, attempt, fills, milliseconds, peak, wall
from qdit.bench.modes import INTEGER, PLAIN, SIMULATED, quantized
from qdit.methods.quantize import quantize_model
from qdit.models.config import DiTConfig, STDiT3Config
from qdit.models.dit import DiT
from qdit.quant.integer import prepare_integer
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_batch
from qdit.sampling.calibration import collect
from qdit.sampling.graphs import recorded
from qdit.sampling.images import Labels
from qdit.sampling.precision import in_dtype, round_linears
from qdit.sampling.protocol import Protocol

MODES = (PLAIN, SIMULATED, INTEGER)
UNFUSED = {SIMULATED: "simulated, not fused", INTEGER: "integer, not fused"}
"""Mode → the same with LayerNorm and GELU as passes of their own, by torch."""
TINY = DiTConfig(input_size=8, hidden_size=48, depth=2, num_heads=2)
IMAGES, STEPS = 10_000, 100
"""Images and steps of a row of Table 2."""
ROUNDED = {"ptq4dit": "per-step", "tfmq-dm": "per-step"}
"""Methods whose learned rounding is timed, and their calibration data."""


def random_on(scale: Scale, config: DiTConfig) -> DiT:
    """Build a DiT on the device with random weights (standard deviation 1/√inputs). So every layer has an effect."""
    model = DiT(config).requires_grad_(False).eval().to(scale.device)
    generator = torch.Generator(scale.device).manual_seed(0)
    for name, parameter in model.named_parameters():
        deviation = 0.02 if name.endswith("bias") else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, std=deviation, generator=generator)
    return model


def in_half(scale: Scale, source: DiT, mode: str, group_size: int) -> DiT:
    """Copy the model for a mode. Its linears compute in half precision, or are quantized at W4A8."""
    if mode == PLAIN:
        return prepare_inference(round_linears(deepcopy(source), "float16"))
    rounded = round_linears(quantized(source, group_size=group_size).to(scale.device), "float16")
    prepare = prepare_integer if mode in (INTEGER, UNFUSED[INTEGER]) else prepare_inference
    return prepare(rounded, late=mode not in UNFUSED.values())


def models(scale: Scale) -> dict[str, Any]:
    """Measure time and peak memory of one forward pass of a batch in every mode.

    On a GPU the pass is also timed as one CUDA graph, and while torch fills new memory (its deterministic setting).
    """
    config, batch, size = (TINY, 2, 16) if scale.quick else (DiTConfig(), 50, 128)
    source = random_on(scale, config)
    cells = (batch, config.in_channels, config.input_size, config.input_size)
    generator = torch.Generator(scale.device).manual_seed(1)
    x = torch.randn(*cells, device=scale.device, generator=generator)
    inputs = x, torch.full((batch,), 500, device=scale.device), torch.arange(batch, device=scale.device)
    measured: dict[str, Any] = {}
    outputs: dict[str, Tensor] = {}
    for mode in (*MODES, *UNFUSED.values()):
        measured[mode] = attempt(partial(_forward, scale, source, mode, size, inputs, outputs))
    plain = measured[PLAIN]
    for mode in (SIMULATED, INTEGER, *UNFUSED.values()):
        if isinstance(plain, dict) and isinstance(measured[mode], dict):
            measured[mode]["times full precision"] = measured[mode]["ms"] / plain["ms"]
    if {SIMULATED, INTEGER} <= outputs.keys():
        measured["integer − simulated, largest"] = float((outputs[INTEGER] - outputs[SIMULATED]).abs().max())
    return measured


def _forward(
    scale: Scale, source: DiT, mode: str, size: int, inputs: tuple[Tensor, ...], outputs: dict[str, Tensor]
) -> dict[str, Any]:
    """Milliseconds and memory of one pass; its output is kept in `outputs`."""
    with torch.inference_mode():
        call = partial(in_dtype(in_half(scale, source, mode, size), "float16"), *inputs)
        outputs[mode], gibibytes = peak(scale, call)
        row: dict[str, Any] = {"ms": milliseconds(scale, call, 3, 1), "GiB": gibibytes}
        if scale.is_cuda:
            with fills():
                row["ms with fills"] = milliseconds(scale, call, 3, 1)
            graphed = attempt(partial(_graphed, scale, call, outputs[mode]))
            row |= graphed if isinstance(graphed, dict) else {"graph": graphed}
    return row


def _graphed(scale: Scale, call: Callable[[], Tensor], expected: Tensor) -> dict[str, Any]:
    """Milliseconds of the pass as one CUDA graph, and whether it has the bits of the pass itself."""
    replay, result = recorded(call)
    replay()
    same = torch.equal(result, expected)
    return {"ms as a graph": milliseconds(scale, replay, 3, 1), "graph has the same bits": same}


def sampling(scale: Scale) -> dict[str, Any]:
    """Time guided sampling with DiT-XL/2 in half precision, with and without each step as a CUDA graph.

    Return the hours that 10,000 images in 100 steps would take.
    """
    config, images, steps, size = (TINY, 2, 2, 16) if scale.quick else (DiTConfig(), 50, 10, 128)
    source, protocol = random_on(scale, config), Protocol("ddim", steps, 1.5, 0, "float16")

    def hours(mode: str) -> dict[str, Any]:
        labels = Labels(config.num_classes, protocol.seed).tensors(range(images))
        call = partial(sample_batch, in_half(scale, source, mode, size), protocol, labels, range(images))
        wall(scale, call)
        result, gibibytes = peak(scale, call)
        seconds = wall(scale, call) / 1e3
        whole = seconds / images / steps * STEPS * IMAGES / 3600
        row = {"s": seconds, "GiB": gibibytes, "images/h": 3600 * images / (seconds / steps * STEPS), "hours": whole}
        if scale.is_cuda:
            same = torch.equal(call(graphed=True), result)
            row |= {"s as graphs": wall(scale, partial(call, graphed=True)) / 1e3, "graphs have the same bits": same}
            with fills():
                row["s with fills"] = wall(scale, call) / 1e3
        return row

    return {mode: attempt(partial(hours, mode)) for mode in MODES}


def rounding(scale: Scale) -> dict[str, Any]:
    """Measure GPTQ and learned rounding of two blocks of DiT-XL/2: seconds and memory.

    Learned rounding is measured in float32 and in TensorFloat-32.
    """
    config, size, iterations = (TINY, 16, 4) if scale.quick else (replace(DiTConfig(), depth=2), 128, 100)
    model, few = random_on(scale, config), Protocol("ddim", 4, 1.5, 0)

    def timed(method: str, kind: str, options: dict[str, Any]) -> dict[str, float]:
        data = {kind: collect(model, kind, few, samples=8 if scale.quick else 64).to(torch.device(scale.device))}
        call: Callable[[], Any] = partial(
            quantize_model, model, method, weight_bits=4, activation_bits=8, calibration=data, options=options
        )
        milliseconds_of: list[float] = []
        _, gibibytes = peak(scale, lambda: milliseconds_of.append(wall(scale, call)))
        return {"s": milliseconds_of[0] / 1e3, "GiB": gibibytes}

    measured = {"q-dit": attempt(partial(timed, "q-dit", "trajectory", {"group_size": size}))}
    for method, kind in ROUNDED.items():
        for matmul in ("float32", "tf32") if scale.is_cuda else ("float32",):
            options = {"iterations": iterations, "batch": 32, "matmul": matmul}
            measured[f"{method} {matmul}"] = attempt(partial(timed, method, kind, options))
    return measured


def decoding(scale: Scale) -> dict[str, Any]:
    """Measure the VAE, Inception, and one forward pass of Open-Sora's STDiT3 on a clip of 51×240×426.

    Weights are random.
    """
    parts = {"VAE": vae, "Inception": inception, "STDiT3": clip}
    return {name: attempt(partial(call, scale)) for name, call in parts.items()}


def vae(scale: Scale) -> dict[str, float]:
    """Milliseconds to decode one image with the VAE. It needs diffusers."""
    from diffusers import AutoencoderKL

    from qdit.bench.full_size_parts import SD_VAE
    from qdit.models.image_vae import ImageVAE
    from qdit.sampling.images import Decoder

    small = {"block_out_channels": (32,) * 4, "layers_per_block": 1} if scale.quick else {}
    dtype = "float16" if scale.is_cuda else "float32"
    network = ImageVAE(AutoencoderKL(**{**SD_VAE, **small})).eval().to(scale.device, getattr(torch, dtype))
    decoder = Decoder(network, dtype, torch.device(scale.device))
    latents = torch.randn(4, 4, 4, 4) if scale.quick else torch.randn(64, 4, 32, 32)
    decoder(latents[:4])
    _, gibibytes = peak(scale, partial(decoder, latents))
    return {"ms an image": wall(scale, partial(decoder, latents)) / len(latents), "GiB": gibibytes}


def inception(scale: Scale) -> dict[str, float]:
    """Milliseconds to compute Inception's features of one image of 256×256. It needs torch-fidelity."""
    from qdit.metrics.inception import AdmInception, InceptionExtractor

    extractor: Any = InceptionExtractor(AdmInception().eval(), "random", device=scale.device)
    images = torch.randint(256, (4 if scale.quick else 256, 3, 256, 256), dtype=torch.uint8).numpy()
    extractor(images[:4])
    return {"ms an image": wall(scale, partial(extractor, images)) / len(images)}


def clip(scale: Scale) -> dict[str, Any]:
    """Milliseconds of one forward pass of STDiT3 on a batch of clips in bfloat16."""
    from qdit.models.stdit3 import STDiT3

    config = STDiT3Config(depth=1, hidden_size=96, num_heads=2) if scale.quick else STDiT3Config()
    model = STDiT3(config).requires_grad_(False).eval().to(scale.device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    ready = in_dtype(prepare_inference(round_linears(model, "bfloat16")), "bfloat16")
    count, grid = (1, (3, 4, 4)) if scale.quick else (5, (15, 30, 53))
    text = torch.randn(count, 20 if scale.quick else 120, config.text_width, device=scale.device)
    mask = torch.ones(text.shape[:2], dtype=torch.bool, device=scale.device)
    x = torch.randn(count, config.in_channels, *grid, device=scale.device)
    timestep = torch.full((count,), 500.0, device=scale.device)
    with torch.inference_mode():
        call = partial(ready, x, timestep, text, mask, 24.0, 240.0, 426.0)
        result, gibibytes = peak(scale, call)
        return {"ms": milliseconds(scale, call, 2, 1), "GiB": gibibytes, "finite": bool(result.isfinite().all())}
