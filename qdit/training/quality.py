"""How good the shipped mini DiT is: likeness to digits, obedience to labels, DDPM against DDIM, and no memorising.

Measured once per shipped weights and kept as JSON with machine, commit and command; the tests repeat it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qdit.artifacts import atomic_path, sha256_file, write_json
from qdit.data.digits import load, to_uint8
from qdit.metrics.features import Extractor, load_extractor
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.models.dit import DiT
from qdit.models.loading import load_model
from qdit.provenance import commit, machine, packages
from qdit.quant.sites import prepare_inference
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import sample_images
from qdit.seeds import Purpose, generator

HALF = 898
"""Images of one side of a split: half of the 1,797 digits."""
SPLITS = 20
BATCH = 64
GUIDANCE_SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Pictures:
    """Sampled images (N, 1, 8, 8) float32 with the labels they were asked for (N,)."""

    images: Tensor
    labels: Tensor


def draw(model: DiT, protocol: Protocol, count: int = HALF) -> Pictures:
    """The first `count` images of a protocol, in batches of 64."""
    starts = tqdm(range(0, count, BATCH), desc=f"{protocol.sampler} {protocol.steps} steps", unit="batch")
    parts = [sample_images(model, protocol, range(start, min(start + BATCH, count))) for start in starts]
    return Pictures(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))


def mean_split_fid(pool: np.ndarray, digits: np.ndarray) -> tuple[float, float]:
    """(FID of samples against half of the digits, FID between the halves), each the mean over random splits."""
    generated = moments(pool)
    samples, halves = [], []
    for split in range(SPLITS):
        order = generator(0, Purpose.SPLIT, split).permutation(len(digits))
        one, other = moments(digits[order[:HALF]]), moments(digits[order[HALF : 2 * HALF]])
        samples.append(frechet_distance(generated, one))
        halves.append(frechet_distance(one, other))
    return float(np.mean(samples)), float(np.mean(halves))


def nearest(images: Tensor, among: Tensor) -> np.ndarray:
    """Euclidean distance (N,) of each image to the nearest of `among`, pixels in [−1, 1]."""
    return torch.cdist(images.flatten(1), among.flatten(1)).amin(dim=1).numpy()


def memorising(generated: Tensor) -> dict[str, Any]:
    """Distances to the nearest training digit, of samples and of held-out digits.

    `to_train` and `to_held_out` compare samples with equally many training and held-out digits: a model that
    memorises is nearer to the former.
    """
    train, held_out = load("train").images, load("held_out").images
    quantiles = tuple(range(5, 100, 5))
    subsets = [
        nearest(generated, train[generator(0, Purpose.SPLIT, 1000 + i).permutation(len(train))[: len(held_out)]])
        for i in range(SPLITS)
    ]
    return {
        "quantiles": list(quantiles),
        "samples_to_nearest_training_digit": np.percentile(nearest(generated, train), quantiles).tolist(),
        "held_out_to_nearest_training_digit": np.percentile(nearest(held_out, train), quantiles).tolist(),
        "mean_to_as_many_training_digits": float(np.mean(subsets)),
        "mean_to_held_out_digits": float(nearest(generated, held_out).mean()),
    }


def measure(model: DiT, extractor: Extractor) -> dict[str, Any]:
    """All figures of the quality of a mini DiT (several minutes on one core)."""
    digits = extractor(to_uint8(load("all").images)).pool

    def score(protocol: Protocol) -> tuple[Pictures, dict[str, float]]:
        pictures = draw(model, protocol)
        features = extractor(to_uint8(pictures.images))
        fid, halves = mean_split_fid(features.pool, digits)
        accuracy = float((features.logits.argmax(axis=1) == pictures.labels.numpy()).mean())
        return pictures, {"fid": fid, "fid_of_halves": halves, "ratio": fid / halves, "class_accuracy": accuracy}

    pictures, ddim20 = score(Protocol("ddim", 20, 1.0, seed=1))
    guidance = {f"{scale:g}": score(Protocol("ddim", 20, scale, seed=1))[1] for scale in GUIDANCE_SCALES[1:]}
    return {
        "images": HALF,
        "splits": SPLITS,
        "ddim_20": ddim20,
        "ddim_50": score(Protocol("ddim", 50, 1.0, seed=1))[1],
        "ddpm_50": score(Protocol("ddpm", 50, 1.0, seed=1))[1],
        "guidance_scan_ddim_20": {"1": ddim20, **guidance},
        "memorising": memorising(pictures.images),
    }


def measure_files(weights: Path, extractor: Path, out: Path, *, figure: Path, command: str) -> None:
    """Measure a weights file; write the figures as JSON with what they were measured on, and a picture."""
    figures = measure(prepare_inference(load_model(weights)), load_extractor("digit-classifier", extractor))
    study = {
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
        "weights": {"file": weights.name, "sha256": sha256_file(weights)},
        "extractor": {"file": extractor.name, "sha256": sha256_file(extractor)},
        "figures": figures,
    }
    write_json(out, study)
    draw_memorising(figures["memorising"], figure)


def draw_memorising(figures: Mapping[str, Any], path: Path) -> None:
    """Cumulative distribution of the distances to the nearest training digit, as SVG of equal bytes for equal data."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "qdit", "font.size": 10}):
        drawing, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
        for who, label, style in (
            ("samples", "samples of the mini DiT", "-"),
            ("held_out", "held-out digits", "--"),
        ):
            axes.plot(figures[f"{who}_to_nearest_training_digit"], figures["quantiles"], style, label=label)
        axes.set(
            xlabel="distance to the nearest training digit (64 pixels in [−1, 1])",
            ylabel="% of images nearer than that",
            xlim=(0, None),
            ylim=(0, 100),
        )
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="svg", metadata={"Date": None})
        pyplot.close(drawing)
