"""ADM's Inception features for the paper profile: torch-fidelity's network with the sFID layer.

Importing this module imports torch-fidelity and torchvision; `load_extractor` does it on demand.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError
from qdit.core.files import load_tensors, one_line, sha256_file
from qdit.metrics.batches import extract_in_batches, require_images
from qdit.metrics.features import SPATIAL_CHANNELS, Features, Images
from qdit.models.manifest import check_file
from qdit.models.weights_files import OFFICIAL_SUFFIXES, read_official

NAME = "inception-adm"
BATCH = 32


class AdmInception(FeatureExtractorInceptionV3):
    """The Inception network of 2015-12-05, with TensorFlow 1's bilinear resize to 299×299.

    Its outputs are pool, spatial and logits. pool (N, 2048) is pool_3. spatial (N, 17·17·7 = 2023) are the first 7
    channels of the 1×1 branch of mixed_6 (Mixed_6d here) after batch norm and ReLU, flattened in the order NHWC.
    guided-diffusion's evaluator uses these values for sFID. logits (N, 1008) have no bias.
    """

    def __init__(self) -> None:
        # The parent's constructor unpickles a weights file or downloads one. It is given an empty state of our own
        # making, which `load_state_dict` below ignores; real weights come from `load_inception`.
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        super().__init__(NAME, ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)
        self._spatial = torch.empty(0)
        self.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as every torch module does. An empty dictionary leaves the present weights unchanged."""
        return super().load_state_dict(state_dict or self.state_dict(), strict, assign)

    def _keep_spatial(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images (N, 3, H, W) → pool, spatial, logits."""
        pool, logits = super().forward(images)
        return pool, self._spatial, logits


class InceptionExtractor:
    """Extractor that computes Inception features of uint8 RGB images of any size. `load_inception` makes it."""

    name = NAME
    classes_are_labels = False

    def __init__(self, network: AdmInception, digest: str, *, device: str = "cpu", batch: int = BATCH) -> None:
        self.network = network.to(torch_device(device))
        self.digest = digest
        self.device = device
        self.batch = batch

    def __call__(self, images: Images) -> Features:
        """Features of uint8 images (N, 3, H, W); DataError on anything else."""
        checked = require_images(images, (3, None, None), who=NAME)
        return extract_in_batches(checked, self.network, batch=self.batch, device=self.device)


def load_inception(path: Path, *, sha256: str | None = None, device: str = "cpu") -> InceptionExtractor:
    """Load Inception from a .pth or safetensors file with torch-fidelity's tensor names; nothing is downloaded.

    The file is checked against `sha256` or the manifest.json beside it. Raises CheckpointError if it is missing,
    damaged, or not the weights of this network.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no Inception weights there; fetch weights-inception-2015-12-05-6726825d.pth from torch-fidelity's"
            " release v0.2.0 and put it at this path"
        )
    check_file(path, sha256)
    tensors = read_official(path) if path.suffix in OFFICIAL_SUFFIXES else load_tensors(path)[0]
    network = AdmInception()
    try:
        # The module's own method would accept a file without tensors.
        nn.Module.load_state_dict(network, tensors)
    except RuntimeError as problem:
        raise CheckpointError(
            f"{path}: not the weights of this Inception network ({one_line(problem)}); use the right file"
        ) from None
    return InceptionExtractor(network, sha256_file(path), device=device)


def load_named(name: str, weights: Path, *, sha256: str | None, device: str) -> InceptionExtractor:
    """Load Inception onto `device`; `name` is always `inception-adm`."""
    return load_inception(weights, sha256=sha256, device=device)
