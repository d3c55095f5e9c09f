"""Blocks of the networks that judge images: pre-norm transformers over patches or words, as plain torch modules.

CLIP (Radford et al., ICML 2021), DINOv2 (Oquab et al., 2023) and the vision half of BLIP (Li et al., ICML 2022) have
the same block and differ in the activation, in layer scale and in a causal mask.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, DataError
from qdit.core.files import load_tensors, one_line
from qdit.models.weights_files import OFFICIAL_SUFFIXES, read_official

HEAD = 64
"""Width of an attention head in all of these networks."""
Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation function: x · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A transformer block: x + s₁ · attention(norm(x)), then x + s₂ · MLP(norm(x)). Without `scaled` both s are 1."""

    def __init__(
        self, width: int, *, activation: Activation, eps: float, scaled: bool = False, causal: bool = False
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale1 = nn.Parameter(torch.ones(width)) if scaled else None
        self.scale2 = nn.Parameter(torch.ones(width)) if scaled else None
        self.activation, self.causal = activation, causal

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, L, width) → tokens (N, L, width)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))
        x = x + (mixed if self.scale1 is None else self.scale1 * mixed)
        hidden = self.fc2(self.activation(self.fc1(self.norm2(x))))
        return x + (hidden if self.scale2 is None else self.scale2 * hidden)


def with_class_token(patches: Tensor, token: Tensor) -> Tensor:
    """Turn feature maps (N, width, h, w) into tokens (N, 1 + h · w, width).

    The first token stands for the whole image.
    """
    tokens = patches.flatten(2).transpose(1, 2)
    return torch.cat([token.expand(len(tokens), 1, -1), tokens], dim=1)


def block_count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of transformer blocks in a file, whose tensors are named `<prefix><number>.…`."""
    numbers = [name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors, by name, of a .pth, .pt or safetensors file. CheckpointError if there is no such file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `qdit fetch` with the profile that needs it downloads it")
    return read_official(path) if path.suffix in OFFICIAL_SUFFIXES else load_tensors(path)[0]


def filled(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> nn.Module:
    """Load tensors into a network as float32, and set it to eval mode. CheckpointError unless names and shapes fit."""
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    except RuntimeError as problem:
        raise CheckpointError(f"{path}: not the weights of {what} ({one_line(problem)})") from None
    return network.eval().requires_grad_(False)


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """The tensors under our names. `names` maps our names to those in the file.

    CheckpointError for a missing tensor.
    """
    if missing := [name for name in names.values() if name not in tensors]:
        raise CheckpointError(f"{path}: has no tensor {missing[0]}; give the file that the profile names")
    return {ours: tensors[name] for ours, name in names.items()}


def resized(images: np.ndarray, side: int, *, crop: bool) -> Tensor:
    """Resize uint8 images (N, 3, H, W) to float32 (N, 3, side, side) in [0, 1], by Pillow's bicubic filter.

    With `crop` the shorter side is scaled and the middle is cut out, as in CLIP. Without it both sides are scaled.
    DataError for images of another kind.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"images are {images.dtype} {images.shape}, allowed is uint8 (N, 3, height, width)")
    height, width = images.shape[2:]
    scale = side / min(height, width)
    # As torchvision's Resize and CenterCrop: the longer side is truncated, the margin is rounded.
    size = (int(scale * width), int(scale * height)) if crop else (side, side)
    size = (side, size[1]) if width <= height or not crop else (size[0], side)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    rows = []
    for image in images:
        scaled = Image.fromarray(image.transpose(1, 2, 0)).resize(size, Image.Resampling.BICUBIC)
        rows.append(np.asarray(scaled.crop((left, top, left + side, top + side))))
    return torch.from_numpy(np.stack(rows).transpose(0, 3, 1, 2).astype(np.float32) / 255)


def normalized(images: Tensor, mean: tuple[float, ...], spread: tuple[float, ...]) -> Tensor:
    """(images − mean) / spread, with one mean and one spread for each colour."""
    return (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(spread).view(1, 3, 1, 1)


BATCH = 16
"""Images of a pass."""
CLIP_MEAN, CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of pixels in [0, 1]: CLIP's, which BLIP and ImageReward have too."""
IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def scores_of_pairs(
    images: np.ndarray,
    prompts: Sequence[str],
    score: Callable[[Tensor, Sequence[str]], Tensor],
    *,
    side: int,
    device: str,
    judge: str,
) -> np.ndarray:
    """Scores (N,) float64 of uint8 images (N, 3, H, W) and their prompts, computed in batches by `score`.

    `score` gets pixels (n, 3, side, side), scaled as CLIP scales them, and n prompts. DataError if the numbers differ.
    """
    if len(images) != len(prompts):
        raise DataError(f"{judge}: found {len(images)} images and {len(prompts)} prompts; give one for each")
    values = []
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = slice(start, start + BATCH)
            pixels = normalized(resized(images[batch], side, crop=True), CLIP_MEAN, CLIP_SPREAD)
            values.append(score(pixels.to(device), prompts[batch]).double().cpu().numpy())
    return np.concatenate(values)
