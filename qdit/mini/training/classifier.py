"""Training of the small classifiers whose features the mini profile's metrics use."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.files import save_tensors
from qdit.core.pixels import to_uint8
from qdit.core.seeds import Purpose, torch_generator
from qdit.mini.classifier import Classifier, ClassifierConfig, to_metadata
from qdit.mini.data.data_sets import data_set
from qdit.mini.data.labelled import LabelledImages

DATA = {8: "digits", 16: "digits-16", 28: "fashion-mnist"}
"""Side of the images in pixels → the data set that a classifier of that size learns from."""


@dataclass(frozen=True)
class ClassifierTraining:
    """Hyperparameters of the training of a classifier. The learning rate falls by a cosine to zero.

    Images are rotated by up to `rotation` degrees, scaled by up to 1 ± `scaling`, and shifted by up to `shift` pixels.
    Noise is added, with a standard deviation of up to `noise` on the [−1, 1] scale.

    `bfloat16` computes convolutions in bfloat16, with float32 weights: half the time on CPUs with such instructions.
    `normalized` trains with batch normalization after each convolution, and folds it into the convolutions at the end.
    """

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    rotation: float = 12.0
    scaling: float = 0.1
    shift: float = 0.75
    noise: float = 0.05
    bfloat16: bool = False
    normalized: bool = False


FASHION_TRAINING = ClassifierTraining(
    epochs=14, batch_size=128, rotation=3.0, scaling=0.05, shift=1.0, noise=0.02, bfloat16=True, normalized=True
)
"""For the 60,000 photographs of Fashion-MNIST: fewer epochs and less augmentation, because there are more images."""
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4")
DEFAULTS = {
    8: (ClassifierConfig(), ClassifierTraining()),
    16: (ClassifierConfig(size=16), ClassifierTraining()),
    28: (ClassifierConfig(channels=48, size=28, hidden=128, stride=2), FASHION_TRAINING),
}
"""Side of the images → shape and hyperparameters of the shipped classifier."""
BLOCK = 2048
"""Images whose features are in memory at once."""


def train_classifier(
    folder: Path, *, seed: int, config: ClassifierConfig | None = None, training: ClassifierTraining | None = None
) -> Path:
    """Train a classifier on the training images of the data set that `DATA` names for its image size.

    Return the file's path. The path is folder/<name of the extractor>.safetensors. The metadata hold the configuration,
    the hyperparameters and the accuracy on the held-out images. On one machine type equal arguments give equal bytes,
    because one thread computes and every random number depends on (seed, index).
    """
    config = config or ClassifierConfig()
    training = training or DEFAULTS[config.size][1]
    data = data_set(DATA[config.size], "train")
    network = Classifier(config)
    initialize(network, torch_generator(seed, Purpose.TRAINING, 0, 0))
    with one_thread():
        fit(network, data, seed=seed, training=training)
        network.to(memory_format=torch.contiguous_format)
        normalize_scales(network, to_uint8(data.images))
        held_out = accuracy(network, data_set(DATA[config.size], "held_out"))
    metadata = to_metadata(config) | {"training": {**asdict(training), "seed": seed}, "held_out_accuracy": held_out}
    path = folder / f"{config.name}.safetensors"
    save_tensors(path, network.state_dict(), metadata)
    return path


def shipped_config(data: str) -> ClassifierConfig:
    """Configuration of the published classifier of a data set. ConfigError for an unknown data set."""
    sizes = {name: size for size, name in DATA.items()}
    if data not in sizes:
        raise ConfigError(f"unknown data set {data!r}; allowed are {', '.join(sizes)}{did_you_mean(data, sizes)}")
    return DEFAULTS[sizes[data]][0]


@contextmanager
def one_thread() -> Iterator[None]:
    """Context manager: torch uses one thread, because rounding in sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Initialize a network: weights by He's normal initialization, biases with zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def fit(network: Classifier, data: LabelledImages, *, seed: int, training: ClassifierTraining) -> None:
    """Train the classifier with AdamW: minimize the cross-entropy on augmented images."""
    images = to_uint8(data.images).float() / 127.5 - 1
    if training.bfloat16:  # with channels last, oneDNN's bfloat16 convolutions are a third faster
        network.to(memory_format=torch.channels_last)
    if training.normalized:
        normalize(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    progress = tqdm(range(training.epochs), unit="epoch", desc="classifier", mininterval=5)
    for epoch in progress:
        draw = torch_generator(seed, Purpose.TRAINING, 1, epoch)
        batches = torch.randperm(len(data), generator=draw).split(training.batch_size)
        total = 0.0
        for index, rows in enumerate(batches):
            fraction = (epoch + index / len(batches)) / training.epochs
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))
            batch = augment(images[rows], draw, training)
            with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
                _, _, logits = network(batch)
            loss = F.cross_entropy(logits.float(), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        progress.set_postfix(loss=f"{total / len(data):.4f}", refresh=False)
    if training.normalized:
        fold(network)


def normalize(network: Classifier) -> None:
    """Insert batch normalization after each convolution, in place."""
    for name in CONVOLUTIONS:
        convolution = network.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        setattr(network, name, nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels)))


def fold(network: Classifier) -> None:
    """Remove batch normalization, in place. Its running mean and variance become part of the convolutions.

    This is exact, because γ (W x + b − μ) / √(σ² + ε) + β is a convolution too.
    """
    with torch.no_grad():
        for name in CONVOLUTIONS:
            convolution, norm = network.get_submodule(name).children()
            assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None and norm.running_var is not None and convolution.bias is not None
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            convolution.weight *= factor[:, None, None, None]
            convolution.bias.copy_(factor * (convolution.bias - norm.running_mean) + norm.bias)
            setattr(network, name, convolution)


def normalize_scales(network: Classifier, images: Tensor) -> None:
    """Set `pool_scale` and `spatial_scale` so that features of these uint8 images have an average variance of one.

    The logits do not change.
    """
    with torch.no_grad():
        outputs = [network.of_uint8(block)[:2] for block in images.split(BLOCK)]
        pool, spatial = (torch.cat(layer) for layer in zip(*outputs, strict=True))
        pool_factor = 1 / math.sqrt(pool.double().var(dim=0).mean().item())
        network.pool_scale *= pool_factor
        network.fc.weight /= pool_factor
        network.spatial_scale /= math.sqrt(spatial.double().var(dim=0).mean().item())


def augment(images: Tensor, generator: torch.Generator, training: ClassifierTraining) -> Tensor:
    """Copies of images (N, 1, H, W) in [−1, 1], each randomly rotated, scaled and shifted, with noise.

    Pixels that come from outside the image are −1.
    """
    size = len(images)

    def uniform(bound: float) -> Tensor:
        return bound * (2 * torch.rand(size, generator=generator) - 1)

    angle = uniform(math.radians(training.rotation))
    zoom = 1 + uniform(training.scaling)
    pixel = 2 / images.shape[-1]
    across, down = uniform(training.shift * pixel), uniform(training.shift * pixel)
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    transform = torch.stack([cosine, -sine, across, sine, cosine, down], dim=1).view(size, 2, 3)
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    moved = F.grid_sample(images + 1, grid, padding_mode="zeros", align_corners=False) - 1
    strength = training.noise * torch.rand(size, 1, 1, 1, generator=generator)
    return moved + strength * torch.randn(images.shape, generator=generator)


def accuracy(network: Classifier, data: LabelledImages) -> float:
    """Fraction of the images that the network classifies correctly: their label has the largest logit."""
    with torch.inference_mode():
        logits = torch.cat([network.of_uint8(block)[2] for block in to_uint8(data.images).split(BLOCK)])
    return (logits.argmax(dim=1) == data.labels).double().mean().item()
