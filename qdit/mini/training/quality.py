"""Quality of a mini DiT: likeness to digits, label accuracy, DDPM against DDIM, and memorisation.

It is measured once for the shipped weights, and stored as JSON with machine, commit and command. The tests repeat it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.files import atomic_path, sha256_file, write_json
from qdit.core.pixels import to_uint8
from qdit.core.provenance import commit, machine, packages
from qdit.core.seeds import Purpose, generator
from qdit.metrics.extractors import load_extractor
from qdit.metrics.features import Extractor
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.labelled import LabelledImages
from qdit.mini.training.dit import MINI_MODELS
from qdit.models.dit import DiT
from qdit.models.loading import load_dit
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_images
from qdit.sampling.protocol import Protocol

HALF = 898
"""Images of one side of a split: half of the 1,797 digits."""
SPLITS = 20
BATCH = 64
GUIDANCE_SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
SHOWN = 4
"""Images of each class in a picture."""
GAP = 4
"""White lines between held-out digits and samples, in pixels of an image."""
ENLARGED = 3
"""Side in pixels of an image's pixel in a picture."""


@dataclass(frozen=True)
class Subject:
    """Inputs of the measurement of a mini DiT: a data set, an extractor, and the DDIM steps of its guidance scan.

    `figure` is the file name of the picture of the distances to training digits.
    """

    data: str
    extractor: str
    scan_steps: int
    figure: str


SUBJECTS = {
    "dit-digits": Subject("digits", "digit-classifier", 20, "memorising.svg"),
    "dit-digits-16": Subject("digits-16", "digit-classifier-16", 10, "memorising-16.svg"),
}


def subject_of(name: str) -> Subject:
    """The subject of that name; ConfigError on an unknown one."""
    if name not in SUBJECTS:
        raise ConfigError(f"unknown model {name!r}; allowed are {', '.join(SUBJECTS)}{did_you_mean(name, SUBJECTS)}")
    return SUBJECTS[name]


def draw(model: DiT, protocol: Protocol, count: int = HALF) -> LabelledImages:
    """The first `count` images of a protocol, sampled in batches of 64."""
    starts = tqdm(range(0, count, BATCH), desc=f"{protocol.sampler} {protocol.steps} steps", unit="batch")
    parts = [sample_images(model, protocol, range(start, min(start + BATCH, count))) for start in starts]
    return LabelledImages(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))


def mean_split_fid(pool: np.ndarray, digits: np.ndarray) -> tuple[float, float]:
    """(FID of samples against half of the digits, FID between the halves), each the mean over random splits."""
    generated = moments(pool)
    samples, halves = [], []
    for split in range(SPLITS):
        order = generator(0, Purpose.SPLIT, split).permutation(len(digits))
        first_half, second_half = moments(digits[order[:HALF]]), moments(digits[order[HALF : 2 * HALF]])
        samples.append(frechet_distance(generated, first_half))
        halves.append(frechet_distance(first_half, second_half))
    return float(np.mean(samples)), float(np.mean(halves))


def nearest(images: Tensor, among: Tensor) -> np.ndarray:
    """Distance (N,) of each image to the nearest image of `among`: Euclidean, pixels in [−1, 1]."""
    return torch.cdist(images.flatten(1), among.flatten(1)).amin(dim=1).numpy()


def memorising(name: str, generated: Tensor) -> dict[str, Any]:
    """Distances to the nearest training digit, of samples and of held-out digits.

    The nearest digit is searched among all images of the training, with every variant of a digit. Two means compare
    samples with training digits and with equally many held-out digits. A model that memorises is nearer to the training
    digits.
    """
    data = subject_of(name).data
    train, held_out = MINI_MODELS[name].data().images, data_set(data, "held_out").images
    once = data_set(data, "train").images
    quantiles = tuple(range(5, 100, 5))
    subsets = [
        nearest(generated, once[generator(0, Purpose.SPLIT, 1000 + i).permutation(len(once))[: len(held_out)]])
        for i in range(SPLITS)
    ]
    return {
        "quantiles": list(quantiles),
        "samples_to_nearest_training_digit": np.percentile(nearest(generated, train), quantiles).tolist(),
        "held_out_to_nearest_training_digit": np.percentile(nearest(held_out, train), quantiles).tolist(),
        "mean_to_as_many_training_digits": float(np.mean(subsets)),
        "mean_to_held_out_digits": float(nearest(generated, held_out).mean()),
    }


def measure(name: str, model: DiT, extractor: Extractor) -> tuple[dict[str, Any], LabelledImages]:
    """All quality values of a mini DiT (several minutes on one core), and its samples with 20 DDIM steps."""
    subject = subject_of(name)
    digits = extractor(to_uint8(data_set(subject.data, "all").images)).pool

    def score(protocol: Protocol) -> tuple[LabelledImages, dict[str, float]]:
        pictures = draw(model, protocol)
        features = extractor(to_uint8(pictures.images))
        fid, halves = mean_split_fid(features.pool, digits)
        accuracy = float((features.logits.argmax(axis=1) == pictures.labels.numpy()).mean())
        return pictures, {"fid": fid, "fid_of_halves": halves, "ratio": fid / halves, "class_accuracy": accuracy}

    pictures, ddim20 = score(Protocol("ddim", 20, 1.0, seed=1))
    steps = subject.scan_steps
    figures = {
        "images": HALF,
        "splits": SPLITS,
        "ddim_20": ddim20,
        "ddim_50": score(Protocol("ddim", 50, 1.0, seed=1))[1],
        "ddpm_50": score(Protocol("ddpm", 50, 1.0, seed=1))[1],
        f"guidance_scan_ddim_{steps}": {
            f"{scale:g}": score(Protocol("ddim", steps, scale, seed=1))[1] for scale in GUIDANCE_SCALES
        },
        "memorising": memorising(name, pictures.images),
    }
    return figures, pictures


def measure_files(name: str, weights: Path, extractor: Path, out: Path, *, pictures: Path, command: str) -> None:
    """Measure a weights file of the model `name`. Write the values as JSON, with their origin.

    The folder `pictures` gets an SVG of the distances to training digits, and a PNG of held-out digits above samples.
    """
    subject = subject_of(name)
    model = prepare_inference(load_dit(weights))
    figures, samples = measure(name, model, load_extractor(subject.extractor, extractor))
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
    draw_memorising(figures["memorising"], pictures / subject.figure, pixels=samples.images[0].numel())
    draw_gallery(data_set(subject.data, "held_out"), samples, pictures / f"{subject.data}.png")


def of_each_class(digits: LabelledImages) -> np.ndarray:
    """The first `SHOWN` images of each class as one picture: a column per class, a grey line between images."""
    columns = []
    for label in range(10):
        images = to_uint8(digits.images[digits.labels == label][:SHOWN, 0]).numpy()
        framed = np.pad(images, ((0, 0), (0, 1), (0, 1)), constant_values=96)
        columns.append(framed.reshape(-1, framed.shape[-1]))
    return np.concatenate(columns, axis=1)


def draw_gallery(held_out: LabelledImages, samples: LabelledImages, path: Path) -> None:
    """Held-out digits above, samples of a mini DiT below, as an enlarged PNG."""
    upper, lower = of_each_class(held_out), of_each_class(samples)
    gap = np.full((GAP, upper.shape[-1]), 255, np.uint8)
    picture = np.concatenate([upper, gap, lower]).repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="png", optimize=True)


def draw_memorising(figures: Mapping[str, Any], path: Path, *, pixels: int) -> None:
    """Draw the cumulative distribution of the distances to the nearest training digit, as SVG.

    Equal data give equal bytes.
    """
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
            xlabel=f"distance to the nearest training digit ({pixels} pixels in [−1, 1])",
            ylabel="% of images nearer than that",
            xlim=(0, None),
            ylim=(0, 100),
        )
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="svg", metadata={"Date": None})
        pyplot.close(drawing)
