"""Sections of `qdit bench gpu` about methods and commands: both devices, GPU and CPU, do the same work."""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qdit.bench.gpu_clock import Scale, attempt
from qdit.bench.gpu_models import random_on
from qdit.core.repository import ROOT
from qdit.methods.quantize import quantize_model
from qdit.methods.registry import registry
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_images
from qdit.sampling.calibration import collect
from qdit.sampling.calibration_set import CalibrationSet
from qdit.sampling.protocol import Protocol

PROTOCOL = Protocol("ddpm", 4, 1.5, 0)
SMALL = DiTConfig(input_size=8, in_channels=1, hidden_size=48, depth=2, num_heads=2, num_classes=10)
KINDS = ("trajectory", "ndtc", "uniform", "per-step")
CHEAP: dict[str, dict[str, Any]] = {
    "tq-dit": {"rounds": 1, "per_group": 2},
    "q-dit": {"group_size": 16},
    "g4w+p4a": {"group_size": 16},
    "rtn": {"group_size": 16, "activation": "dynamic"},
}
"""Options of methods on a small model; those that learn rounding have few iterations."""
LEARNING = {"iterations": 20, "batch": 8}
SCOPES = ("common", "own")
WEIGHTS = Path("weights/dit-digits-natural.safetensors")


def methods(scale: Scale) -> dict[str, Any]:
    """Quantize by every method in both scopes on GPU and CPU, and compare the sampled images.

    The value is the mean absolute difference of the images, divided by the mean absolute value of the CPU's images.
    """
    there = random_on(scale, SMALL)
    models = (there, deepcopy(there).cpu())
    sets: dict[str, CalibrationSet] = {}
    measured: dict[str, Any] = {}
    names = [name for name in sorted(registry()) if name != "fp"]
    for kind in sorted({kind for name in names for kind in registry()[name].calibration} | set(KINDS)):
        sets[kind] = collect(models[1], kind, PROTOCOL, samples=8)
        distance = (sets[kind].x - collect(models[0], kind, PROTOCOL, samples=8).x).abs()
        measured[f"calibration {kind}"] = float(distance.max())
    for name in names[:2] if scale.quick else names:
        for scope in SCOPES:
            start = time.perf_counter()
            apart_or_problem = attempt(partial(_apart, models, sets, name, scope))
            measured[f"{name} {scope}"] = [apart_or_problem, round(time.perf_counter() - start, 1)]
    return measured


def _apart(models: tuple[DiT, DiT], sets: dict[str, CalibrationSet], name: str, scope: Any) -> float:
    """Relative distance of the images of one method on both devices."""
    options = LEARNING if registry()[name].learns_rounding else CHEAP.get(name, {})
    images = []
    for model in models:
        device = next(model.parameters()).device
        data = {kind: sets[kind].to(device) for kind in registry()[name].calibration}
        bits = {"weight_bits": 8, "activation_bits": 8}
        quantized = quantize_model(model, name, scope=scope, calibration=data, options=options, **bits)
        ready: Any = prepare_inference(quantized.model)
        images.append(sample_images(ready, PROTOCOL, range(4), correction=quantized.correction)[0].cpu())
    return round(float((images[0] - images[1]).abs().mean() / images[1].abs().mean()), 5)


def pipeline(scale: Scale) -> dict[str, Any]:
    """Run `calibrate` … `evaluate` for the digits' DiT, on the device and on the CPU.

    The reference of `evaluate` is made of digits that scikit-learn holds. Without it the pipeline ends at `features`.
    """
    measured: dict[str, Any] = {}
    images = []
    count, steps = ("8", "4") if scale.quick else ("64", "20")
    with tempfile.TemporaryDirectory(prefix="qdit-bench-gpu-") as folder:
        for label, device in (("device", scale.device), ("CPU", "cpu")):
            for words in commands(Path(folder, label), device, count, steps):
                start = time.perf_counter()
                done = subprocess.run([sys.executable, "-m", "qdit", *words], cwd=ROOT, capture_output=True, text=True)
                measured[f"{words[0]}, {label}, s"] = round(time.perf_counter() - start, 1)
                if done.returncode:
                    return measured | {"failed": [words[0], label, done.stderr[-400:]]}
            samples = Path(folder, label, "s")
            arrays = [np.load(chunk)["images"] for chunk in sorted(samples.glob("0*.npz"))]
            images.append(np.concatenate(arrays).astype(int))
            listing = json.loads((samples / "shard-000.json").read_text(encoding="utf-8"))
            measured[f"backend, {label}"] = listing["backend"]
            if (scores := Path(folder, label, "metrics.json")).is_file():
                measured[f"FID, {label}"] = json.loads(scores.read_text(encoding="utf-8"))["metrics"]["fid"]
    distance = np.abs(images[0] - images[1])
    return measured | {
        "images": len(distance),
        "largest difference": int(distance.max()),
        "mean": float(distance.mean()),
    }


def commands(folder: Path, device: str, images: str, steps: str) -> list[list[str]]:
    """Command lines of the pipeline on one device, in order."""
    weights, common = str(ROOT / WEIGHTS), ["--steps", steps, "--device", device]
    data, quantized, samples, reference = (f"{folder}/{name}" for name in ("t.safetensors", "q", "s", "reference.npz"))
    quantize_flags = ["--method", "q-dit", "--bits", "w4a8", "--options", '{"group_size": 16}', "--device", device]
    chunk = str(min(32, int(images)))
    scored = ["evaluate", samples, f"{folder}/metrics.json", "--checkpoint", quantized, "--reference-file", reference]
    last = [["reference", reference], scored] if importlib.util.find_spec("sklearn") else []
    return [
        ["calibrate", weights, data, "--samples", images, *common],
        ["quantize", weights, quantized, "--calibration", f"trajectory={data}", *quantize_flags],
        ["sample", quantized, samples, "--images", images, "--chunk", chunk, "--cfg-scale", "1.5", *common],
        ["features", samples, "--device", device],
        *last,
    ]
