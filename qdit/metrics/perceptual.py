"""LPIPS: perceptual distance of pairs of images by features of AlexNet or VGG16 (Zhang et al., CVPR 2018, eq. 1).

The networks are torchvision's; the linear weights are those of the authors' program, version 0.1. Features of five
layers are divided by their length over channels. The squared differences are weighted over channels, averaged over
positions, and added over layers. Importing this module imports torchvision.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError, ConfigError, DataError, did_you_mean
from qdit.core.files import load_tensors, one_line
from qdit.models.weights_files import OFFICIAL_SUFFIXES, read_official

CUTS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}
"""Network → where its list of layers is cut: after each of the five layers whose features count."""
CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
BUILDERS = {"alex": alexnet, "vgg": vgg16}
MEAN, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and scale of each colour, for pixels in [−1, 1]."""
SMALLEST = 32
"""Pixels of a side below which the last layer of AlexNet has no position."""
BATCH = 16
TINY = 1e-10


class Lpips(nn.Module):
    """The LPIPS network with the features of `alex` or `vgg`; it has no weights until a state is loaded."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.network = network
        with torch.device("meta"):  # the classifier is never used, so it takes no memory
            self.features: nn.Sequential = BUILDERS[network](weights=None).features
        self.linear = nn.ParameterList(nn.Parameter(torch.zeros(1, size, 1, 1)) for size in CHANNELS[network])
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """LPIPS (N,) of each pair of uint8 images: N images (N, 3, H, W) and N others (N, 3, H, W)."""
        pairs = zip(self._layers(images), self._layers(others), self.linear, strict=True)
        distances = [((a - b) ** 2 * weight).sum(dim=1).mean(dim=(1, 2)) for a, b, weight in pairs]
        return torch.stack(distances).sum(dim=0)

    def _layers(self, images: Tensor) -> list[Tensor]:
        """The five feature maps (N, C, h, w), each of length 1 over its channels."""
        mean, scale = self.get_buffer("mean"), self.get_buffer("scale")
        values, maps = (images.to(mean.dtype) / 127.5 - 1 - mean) / scale, []
        for number, layer in enumerate(self.features[: CUTS[self.network][-1]], start=1):
            values = torch.relu(values) if isinstance(layer, nn.ReLU) else layer(values)
            if number in CUTS[self.network]:
                maps.append(values / (values.square().sum(dim=1, keepdim=True).sqrt() + TINY))
        return maps


def load_lpips(network: str, backbone: Path, linear: Path, *, device: str = "cpu") -> Lpips:
    """Load LPIPS with torchvision's weights of the network and the authors' linear weights; nothing is downloaded.

    Raises ConfigError for an unknown network and CheckpointError for files that are not its weights.
    """
    if network not in CUTS:
        raise ConfigError(f"LPIPS network {network!r}: allowed are {', '.join(CUTS)}{did_you_mean(network, CUTS)}")
    model = Lpips(network)
    layers = {
        name.removeprefix("features."): tensor
        for name, tensor in read_weights(backbone).items()
        if name.startswith("features.")
    }
    weights = {str(layer): read_weights(linear).get(f"lin{layer}.model.1.weight") for layer in range(5)}
    try:
        model.features.load_state_dict(layers, assign=True)
        model.linear.load_state_dict(weights, strict=True)
    except (RuntimeError, AttributeError) as problem:
        raise CheckpointError(
            f"{backbone} and {linear}: not the weights of LPIPS with {network} ({one_line(problem)}); fetch the files"
            " of the profile"
        ) from None
    return model.eval().requires_grad_(False).to(torch_device(device))


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a .pth file (weights only) or of a safetensors file; CheckpointError if there is none."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `qdit fetch` with the profile that needs it downloads it")
    return read_official(path) if path.suffix in OFFICIAL_SUFFIXES else load_tensors(path)[0]


def lpips_per_image(model: Lpips, images: np.ndarray, fp_images: np.ndarray) -> np.ndarray:
    """LPIPS (N,) of uint8 images (N, 3, H, W) and the full-precision images of the same indices.

    Batches have `BATCH` images; the last one is padded, so that a value does not depend on the images after it.
    """
    shape = images.shape
    if images.dtype != np.uint8 or shape != fp_images.shape or len(shape) != 4 or shape[1] != 3 or not len(images):
        raise DataError(
            f"LPIPS: found {images.dtype} {shape} beside {fp_images.dtype} {fp_images.shape}, allowed is uint8"
            " (N, 3, height, width) twice; sample both with the same setting"
        )
    if min(shape[2:]) < SMALLEST:
        raise DataError(f"LPIPS: images have {shape[2]} × {shape[3]} pixels, at least {SMALLEST} are needed on a side")
    device, values = next(model.parameters()).device, []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            a, b = (_padded(of[start : start + BATCH]).to(device) for of in (images, fp_images))
            values.append(model(a, b)[: len(images) - start].double().cpu().numpy())
    return np.concatenate(values)


def _padded(images: np.ndarray) -> Tensor:
    missing = np.zeros((BATCH - len(images), *images.shape[1:]), np.uint8)
    return torch.from_numpy(np.concatenate([images, missing]))
