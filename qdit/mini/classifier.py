"""The small classifiers whose features replace Inception's in the mini profile: two for digits, one for clothes."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import load_tensors, one_line, require_finite, sha256_file
from qdit.metrics.batches import extract_in_batches, require_images
from qdit.metrics.features import SPATIAL_CHANNELS, Features, Images
from qdit.models.manifest import check_file

NAMES = {8: "digit-classifier", 16: "digit-classifier-16", 28: "fashion-classifier"}
"""Side of the images in pixels → name of the extractor, which is that of its weights file."""
POOLING = {8: (1, 2, 1), 16: (2, 2, 1), 28: (2, 2, 2)}
"""Side of the images → side of the squares that are averaged after each of the first three convolutions.

A square at the edge may be cut: 28 → 14 → 7 → 4 pixels.
"""
BATCH = 128


@dataclass(frozen=True)
class ClassifierConfig:
    """Configuration of a classifier of grey images of `size`×`size` pixels.

    `channels` is the width before the third convolution; `hidden` and `features` are the output widths of the third and
    fourth. Without `hidden` the third convolution has `features` outputs too. With a `stride` above 1 the first
    convolution has 5×5 taps, and its stride replaces the first average pooling.
    """

    channels: int = 32
    features: int = 64
    classes: int = 10
    size: int = 8
    hidden: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.size not in NAMES:
            raise ConfigError(f"size {self.size}: allowed are {', '.join(map(str, NAMES))}")
        if self.stride not in (1, POOLING[self.size][0]):
            raise ConfigError(f"stride {self.stride}: allowed are 1 and {POOLING[self.size][0]} at size {self.size}")

    @property
    def name(self) -> str:
        """Name of the extractor that this classifier is, for example `digit-classifier`."""
        return NAMES[self.size]


class Classifier(nn.Module):
    """Classifier of four convolutions with GELU, average pooling, and a linear layer without bias.

    `POOLING` reduces images of every size to 4×4 cells before the last convolution. All operations are smooth, so small
    changes of an image make small changes of its features. Without a bias, the logits of the classification are also
    those of the inception score. `pool_scale` and `spatial_scale` make the average variance of a feature over the
    training images 1. This gives Fréchet distances of readable size; the logits do not depend on them.
    """

    pool_scale: Tensor
    spatial_scale: Tensor

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden or config.features
        taps = 2 * config.stride + 1
        self.conv1 = nn.Conv2d(1, config.channels, taps, stride=config.stride, padding=config.stride)
        self.conv2 = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        self.conv3 = nn.Conv2d(config.channels, hidden, 3, padding=1)
        self.conv4 = nn.Conv2d(hidden, config.features, 3, padding=1)
        self.fc = nn.Linear(config.features, config.classes, bias=False)
        self.register_buffer("pool_scale", torch.ones(()))
        self.register_buffer("spatial_scale", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features and logits of images x (N, 1, L, L) in [−1, 1].

        Returns pool features (N, features), spatial features (N, 4·4·7) in NHWC order, and logits (N, classes).
        """
        sides = (POOLING[self.config.size][0] // self.config.stride, *POOLING[self.config.size][1:])
        for convolution, side in zip((self.conv1, self.conv2, self.conv3), sides, strict=True):
            x = F.gelu(convolution(x))
            x = x if side == 1 else F.avg_pool2d(x, side, ceil_mode=True)
        spatial = self.spatial_scale * x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pool = self.pool_scale * F.gelu(self.conv4(x)).mean(dim=(2, 3))
        return pool, spatial, self.fc(pool)

    def of_uint8(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features and logits, as `forward`, of uint8 images (N, 1, L, L)."""
        return self(images.to(self.fc.weight.dtype) / 127.5 - 1)


class ClassifierExtractor:
    """Extractor that computes features of grey uint8 images of one size on the CPU. `load_classifier` makes it."""

    classes_are_labels = True

    def __init__(self, network: Classifier, digest: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = network.config.name
        self.digest = digest

    def __call__(self, images: Images) -> Features:
        """Features of uint8 images (N, 1, L, L) of the network's size; DataError on anything else."""
        size = self.network.config.size
        checked = require_images(images, (1, size, size), who=self.name)
        return extract_in_batches(checked, self.network.of_uint8, batch=BATCH)


def to_metadata(config: ClassifierConfig) -> dict[str, Any]:
    """Metadata of a weights file, from which `load_classifier` builds the network again.

    They contain size, hidden and stride only if these are not the defaults. The first weights were published before
    these fields existed, and the bytes of those files must not change.
    """
    later = ("size", "hidden", "stride")
    described = asdict(config)
    return {"classifier": {k: v for k, v in described.items() if k not in later or v != getattr(ClassifierConfig, k)}}


def load_classifier(path: Path, *, sha256: str | None = None, name: str | None = None) -> ClassifierExtractor:
    """Load the weights of a classifier, checked against `sha256` or the manifest.json in their folder.

    Raises CheckpointError if the file is missing or damaged, if it holds another kind of network, or if its images have
    another size than those of the extractor `name`.
    """
    check_file(path, sha256)
    tensors, metadata = load_tensors(path)
    try:
        network = Classifier(ClassifierConfig(**metadata["classifier"]))
        network.load_state_dict(tensors)
    except (TypeError, KeyError, ValueError, RuntimeError, ConfigError) as problem:
        raise CheckpointError(
            f"{path}: not the weights of a small classifier ({type(problem).__name__}: {one_line(problem)});"
            " use weights/digit-classifier.safetensors or train one with `qdit train classifier`"
        ) from None
    if name not in (None, network.config.name):
        raise CheckpointError(
            f"{path}: weights of the extractor {network.config.name}, expected is {name}; give its own"
        )
    for key, tensor in tensors.items():
        require_finite(f"{path}: {key}", tensor, error=CheckpointError)
    return ClassifierExtractor(network, sha256_file(path))


def load_named(name: str, weights: Path, *, sha256: str | None, device: str) -> ClassifierExtractor:
    """Load the classifier whose extractor has this name. It always runs on the CPU, whatever `device` is."""
    return load_classifier(weights, sha256=sha256, name=name)
