"""Quality of a mini DiT: FID to real images, label accuracy, DDPM against DDIM, guidance, and memorisation.

The values are measured once for the published weights, and stored as JSON with machine, commit and command. The tests
repeat the measurement.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.files import sha256_file, write_json
from qdit.core.pixels import to_uint8
from qdit.core.provenance import commit, machine, packages
from qdit.core.seeds import Purpose, generator
from qdit.metrics.extractors import load_extractor
from qdit.metrics.features import Extractor
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.statistics import moments
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.labelled import LabelledImages
from qdit.mini.reference import PARTS
from qdit.mini.training.dit import MINI_MODELS
from qdit.mini.training.quality_pictures import draw_gallery, draw_memorising
from qdit.models.dit import DiT
from qdit.models.loading import load_dit
from qdit.quant.sites import prepare_inference
from qdit.sampling.batch import sample_images
from qdit.sampling.protocol import Protocol

Sampler = Literal["ddim", "ddpm"]
HALF = 898
"""Samples of a model of digits: as many as half of the 1,797 digits."""
SPLITS = 20
BATCH = 64
GUIDANCE_SCALES = (1.0, 1.25, 1.5, 2.0, 3.0)
MOST_HELD_OUT = 2000
"""Held-out images whose nearest training images are searched."""
NEIGHBOUR_BLOCK = 10_000
"""Training images whose distances are in memory at once."""


@dataclass(frozen=True)
class Subject:
    """How a mini DiT is measured: data set, extractor, number of samples, and the guidance scales to compare.

    `figure` is the file name of the picture of the distances to training images. `long_steps` is the number of steps at
    which DDPM is compared with DDIM; None leaves this comparison out. `noun` says what an image shows. In the gallery a
    pixel is drawn `enlarged` times as wide.
    """

    data: str
    extractor: str
    scan_steps: int
    figure: str
    images: int = HALF
    scales: tuple[float, ...] = GUIDANCE_SCALES
    long_steps: int | None = 50
    noun: str = "digit"
    enlarged: int = 3


SUBJECTS = {
    "dit-digits": Subject("digits", "digit-classifier", 20, "memorising.svg"),
    "dit-digits-16": Subject("digits-16", "digit-classifier-16", 10, "memorising-16.svg"),
    "dit-fashion": Subject(
        "fashion-mnist",
        "fashion-classifier",
        20,
        "memorising-fashion.svg",
        images=640,
        scales=(1.0, 1.5, 2.0),
        long_steps=None,
        noun="photograph",
        enlarged=2,
    ),
}


def subject_of(name: str) -> Subject:
    """How the mini DiT with this name is measured. ConfigError for an unknown name."""
    if name not in SUBJECTS:
        raise ConfigError(f"unknown model {name!r}; allowed are {', '.join(SUBJECTS)}{did_you_mean(name, SUBJECTS)}")
    return SUBJECTS[name]


def draw(model: DiT, protocol: Protocol, count: int = HALF) -> LabelledImages:
    """Sample the first `count` images of a protocol, with their labels, in batches of 64."""
    starts = tqdm(range(0, count, BATCH), desc=f"{protocol.sampler} {protocol.steps} steps", unit="batch")
    parts = [sample_images(model, protocol, range(start, min(start + BATCH, count))) for start in starts]
    return LabelledImages(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))


def mean_split_fid(pool: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Divide the real images into random halves. Return (FID of samples to one half, FID between the halves).

    Both are means over several random divisions. The second half is cut to the number of samples, because FID depends
    on this number.
    """
    generated, half = moments(pool), len(real) // 2
    samples, halves = [], []
    for split in range(SPLITS):
        order = generator(0, Purpose.SPLIT, split).permutation(len(real))
        first_half, second_half = moments(real[order[:half]]), moments(real[order[half : half + min(len(pool), half)]])
        samples.append(frechet_distance(generated, first_half))
        halves.append(frechet_distance(first_half, second_half))
    return float(np.mean(samples)), float(np.mean(halves))


def nearest(images: Tensor, among: Tensor) -> np.ndarray:
    """Distance (N,) of each image to its nearest image in `among`: Euclidean, over pixels in [−1, 1]."""
    flat = images.flatten(1)
    blocks = [torch.cdist(flat, block.flatten(1)).amin(dim=1) for block in among.split(NEIGHBOUR_BLOCK)]
    return torch.stack(blocks).amin(dim=0).numpy()


def memorising(name: str, generated: Tensor) -> dict[str, Any]:
    """Compare the distances of samples and of held-out images to their nearest training image.

    The nearest image is searched among all training images, with every variant of a digit. Two further values are mean
    distances of samples: to their nearest training image and to their nearest held-out image, among equally many of
    each. The samples of a model that memorises are nearer to the training images.
    """
    data = subject_of(name).data
    train, held_out = MINI_MODELS[name].data().images, data_set(data, "held_out").images[:MOST_HELD_OUT]
    once = data_set(data, "train").images
    quantiles = tuple(range(5, 100, 5))
    subsets = [
        nearest(generated, once[generator(0, Purpose.SPLIT, 1000 + i).permutation(len(once))[: len(held_out)]])
        for i in range(SPLITS)
    ]
    return {
        "quantiles": list(quantiles),
        "samples_to_nearest_training_image": np.percentile(nearest(generated, train), quantiles).tolist(),
        "held_out_to_nearest_training_image": np.percentile(nearest(held_out, train), quantiles).tolist(),
        "mean_to_as_many_training_images": float(np.mean(subsets)),
        "mean_to_held_out_images": float(nearest(generated, held_out).mean()),
    }


def measure(name: str, model: DiT, extractor: Extractor) -> tuple[dict[str, Any], LabelledImages]:
    """Measure all quality values of a mini DiT. Also return its samples with 20 DDIM steps.

    It takes minutes on one core.
    """
    subject = subject_of(name)
    real = extractor(to_uint8(data_set(subject.data, PARTS.get(subject.data, "all")).images)).pool

    @cache
    def score(
        sampler: Literal["ddim", "ddpm"], steps: int, cfg_scale: float
    ) -> tuple[LabelledImages, dict[str, float]]:
        pictures = draw(model, Protocol(sampler, steps, cfg_scale, seed=1), subject.images)
        features = extractor(to_uint8(pictures.images))
        fid, halves = mean_split_fid(features.pool, real)
        accuracy = float((features.logits.argmax(axis=1) == pictures.labels.numpy()).mean())
        of_all = frechet_distance(moments(features.pool), moments(real))
        scores = {"fid": fid, "fid_of_halves": halves, "ratio": fid / halves, "fid_to_all": of_all}
        return pictures, scores | {"class_accuracy": accuracy}

    pictures, ddim20 = score("ddim", 20, 1.0)
    steps = subject.scan_steps
    figures = {"images": subject.images, "splits": SPLITS, "ddim_20": ddim20}
    if subject.long_steps is not None:
        figures |= {
            f"{name}_{subject.long_steps}": score(name, subject.long_steps, 1.0)[1] for name in ("ddim", "ddpm")
        }
    figures |= {
        f"guidance_scan_ddim_{steps}": {f"{scale:g}": score("ddim", steps, scale)[1] for scale in subject.scales},
        "held_out_class_accuracy": accuracy_of(extractor, data_set(subject.data, "held_out")),
        "memorising": memorising(name, pictures.images),
    }
    return figures, pictures


def accuracy_of(extractor: Extractor, data: LabelledImages) -> float:
    """Fraction of the images that the extractor's classifier assigns to their own class."""
    return float((extractor(to_uint8(data.images)).logits.argmax(axis=1) == data.labels.numpy()).mean())


def measure_files(name: str, weights: Path, extractor: Path, out: Path, *, pictures: Path, command: str) -> None:
    """Measure the model `name` from its weights file, and write the values as JSON, with their origin.

    An SVG of the distances to training images and a PNG of held-out images above samples are written to `pictures`.
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
    draw_memorising(
        figures["memorising"], pictures / subject.figure, pixels=samples.images[0].numel(), noun=subject.noun
    )
    held_out = data_set(subject.data, "held_out")
    draw_gallery(held_out, samples, pictures / f"{subject.data}.png", enlarged=subject.enlarged)
