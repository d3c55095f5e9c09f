"""DINOv2 features for FD-DINOv2 (Stein et al., NeurIPS 2023): the class token of ViT-L/14 on images of 224 × 224.

The weights are the publisher's `dinov2_vitl14_pretrain.pth`; ViT-S and ViT-B fit too. torch-fidelity has this extractor
only as a download of code through torch.hub, so the network is written out here. Images are resized as in the authors'
program dgm-eval: bicubic, both sides.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.devices import torch_device
from qdit.core.errors import CheckpointError
from qdit.core.files import sha256_file
from qdit.metrics.batches import require_images
from qdit.metrics.features import Features, Images
from qdit.metrics.vision_transformer import (
    BATCH,
    HEAD,
    IMAGENET_MEAN,
    IMAGENET_SPREAD,
    Block,
    block_count,
    filled,
    normalized,
    read_weights,
    renamed,
    resized,
    with_class_token,
)
from qdit.models.manifest import check_file

NAME = "dinov2"
SIDE, EPS = 224, 1e-6
OFFSET = 0.1
"""Added to the number of patches when positions are interpolated; the publisher's program does it for these weights."""
LAYERS = {"norm1": "norm1", "norm2": "norm2", "qkv": "attn.qkv", "out": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
PARTS = {
    "token": "cls_token",
    "positions": "pos_embed",
    "patch.weight": "patch_embed.proj.weight",
    "patch.bias": "patch_embed.proj.bias",
    "after.weight": "norm.weight",
    "after.bias": "norm.bias",
}
"""Our names of the tensors outside the blocks → those in the file."""


class Dino(nn.Module):
    """DINOv2's vision transformer: normalized images (N, 3, H, W) → features (N, width)."""

    def __init__(self, width: int, patch: int, tokens: int, blocks: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, stride=patch)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, activation=F.gelu, eps=EPS, scaled=True) for _ in range(blocks)))
        self.after = nn.LayerNorm(width, eps=EPS)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch(images)
        x = with_class_token(patches, self.token) + self.positions_for(patches.shape[2], patches.shape[3])
        return self.after(self.blocks(x)[:, 0])

    def positions_for(self, rows: int, columns: int) -> Tensor:
        """Position embeddings (1, 1 + rows · columns, width): the stored ones, interpolated to this grid of patches."""
        side = round((self.positions.shape[1] - 1) ** 0.5)
        if rows == columns == side:
            return self.positions
        grid = self.positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        factors = ((rows + OFFSET) / side, (columns + OFFSET) / side)
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", antialias=False)
        return torch.cat([self.positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def read_dino(path: Path) -> Dino:
    """Load DINOv2 from the publisher's file; CheckpointError for a file of another network."""
    tensors = read_weights(path)
    blocks = block_count(tensors, "blocks.")
    names = dict(PARTS)
    for number in range(blocks):
        ours, stored = f"blocks.{number}.", f"blocks.{number}."
        names |= {
            f"{ours}{part}.{kind}": f"{stored}{name}.{kind}"
            for part, name in LAYERS.items()
            for kind in ("weight", "bias")
        }
        names |= {f"{ours}scale{n}": f"{stored}ls{n}.gamma" for n in (1, 2)}
    state = renamed(tensors, names, path)
    width, patch, tokens = len(state["token"][0, 0]), state["patch.weight"].shape[-1], state["positions"].shape[1]
    if width % HEAD or not blocks:
        raise CheckpointError(f"{path}: DINOv2 with {blocks} blocks of width {width}, expected are multiples of {HEAD}")
    network = filled(Dino(width, patch, tokens, blocks), state, path, "DINOv2")
    assert isinstance(network, Dino)
    return network


class DinoExtractor:
    """Extractor that gives DINOv2's features of uint8 images (N, 3, H, W) as pool features.

    It gives no spatial features and no logits.
    """

    name = NAME
    classes_are_labels = False

    def __init__(self, network: Dino, digest: str, device: str = "cpu") -> None:
        self.network, self.digest, self.device = network.to(torch_device(device)), digest, device

    def features(self, images: np.ndarray) -> np.ndarray:
        """DINOv2's features (N, width) of images, float32."""
        values = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                pixels = resized(images[start : start + BATCH], SIDE, crop=False)
                values.append(self.network(normalized(pixels, IMAGENET_MEAN, IMAGENET_SPREAD).to(self.device)).cpu())
        return np.asarray(torch.cat(values).numpy())

    def __call__(self, images: Images) -> Features:
        pool = self.features(np.asarray(require_images(images, (3, None, None), who=NAME)))
        nothing = np.zeros((len(pool), 1), np.float32)
        return Features(pool, nothing, nothing)


def load_named(name: str, weights: Path, *, sha256: str | None, device: str) -> DinoExtractor:
    """Load DINOv2 as an extractor for a reference; `name` is always `dinov2`."""
    network = read_dino(weights)
    check_file(weights, sha256)
    return DinoExtractor(network, sha256_file(weights), device)


def load(files: Mapping[str, Path], device: str) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Load the function that computes DINOv2 features, from the file `weights`."""
    extractor = DinoExtractor(read_dino(files["weights"]), "", device)
    return lambda images, _prompts: extractor.features(images)
