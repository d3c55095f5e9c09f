"""The networks of mini-VBench: object detection, matching of clips and prompts, and frame quality.

All take pixels in [−1, 1] and are smooth (GELU, average pooling). They replace VBench's networks. `FrameNet` replaces
GRiT, DINO, CLIP and Tag2Text; `ClipNet` replaces ViCLIP and UMT; `QualityNet` replaces MUSIQ; `Aesthetic` replaces
LAION's aesthetic head.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.mini.data.moving_digits_prompts import COLOURS, DIGITS, MOTIONS, SCENES, STYLES, TEMPOS, TOKENS

CELL = 2
"""Side of a cell of the object map in pixels."""
FEATURES = 64
"""Length of a frame's global feature."""
EMBEDDING = 96
"""Length of the embedding that clips and prompts share, and of the clip feature of mFVD."""
TEMPERATURE = 1 / 12
"""Temperature of the contrastive loss."""


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Convolution with a 3×3 kernel that keeps the size of the image."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class FrameReading(NamedTuple):
    """Outputs of FrameNet for N frames of L×L pixels. Maps have L/2 × L/2 cells."""

    trunk: Tensor
    """(N, 64, cells, cells)"""
    objectness: Tensor
    """(N, cells, cells) logits: a digit's centre is here."""
    digits: Tensor
    """(N, 6, cells, cells) logits"""
    colours: Tensor
    """(N, 4, cells, cells) logits"""
    scenes: Tensor
    """(N, 4) logits"""
    styles: Tensor
    """(N, 3) logits"""
    feature: Tensor
    """(N, 64)"""


class FrameNet(nn.Module):
    """Network that finds digit and colour of an object in each cell, and background, style and feature of the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.ModuleList([conv(3, 32), conv(32, 32)])
        self.coarse = nn.ModuleList([conv(32, 64), conv(64, 64), conv(64, 64)])
        self.objects = nn.Conv2d(64, 1 + len(DIGITS) + len(COLOURS), 1)
        self.whole = nn.Linear(128, FEATURES)
        self.scene, self.style = nn.Linear(FEATURES, len(SCENES)), nn.Linear(FEATURES, len(STYLES))

    def forward(self, x: Tensor) -> FrameReading:
        """Compute all outputs for frames (N, 3, L, L) in [−1, 1]."""
        for layer in self.fine:
            x = F.gelu(layer(x))
        x = F.avg_pool2d(x, CELL)
        for layer in self.coarse:
            x = F.gelu(layer(x))
        objectness, digits, colours = self.objects(x).split([1, len(DIGITS), len(COLOURS)], dim=1)
        mean = x.mean(dim=(2, 3))
        spread = (x.square().mean(dim=(2, 3)) + 1e-6).sqrt()
        feature = F.gelu(self.whole(torch.cat([mean, spread], dim=1)))
        return FrameReading(x, objectness[:, 0], digits, colours, self.scene(feature), self.style(feature), feature)


class ClipReading(NamedTuple):
    """Outputs of ClipNet for N clips: embedding, feature, motion and tempo."""

    embedding: Tensor
    """(N, 96) of length one"""
    feature: Tensor
    """(N, 96), what mFVD compares"""
    motions: Tensor
    """(N, 5) logits"""
    tempos: Tensor
    """(N, 3) logits"""


class ClipNet(nn.Module):
    """Network that embeds clips and prompts in the same space. It also classifies motion and tempo."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 24, 3, stride=(1, 2, 2), padding=1)
        self.conv2 = nn.Conv3d(24, 48, 3, stride=2, padding=1)
        self.conv3 = nn.Conv3d(48, 48, 3, padding=1)
        self.join = nn.Linear(48 * 4 * 4 * 4, EMBEDDING)
        self.project = nn.Linear(EMBEDDING, EMBEDDING)
        self.motion, self.tempo = nn.Linear(EMBEDDING, len(MOTIONS)), nn.Linear(EMBEDDING, len(TEMPOS))
        self.words = nn.EmbeddingBag(len(TOKENS), EMBEDDING, mode="sum")
        self.prompt = nn.ModuleList([nn.Linear(EMBEDDING, 2 * EMBEDDING), nn.Linear(2 * EMBEDDING, EMBEDDING)])

    def forward(self, x: Tensor) -> ClipReading:
        """Compute all outputs for clips (N, 3, 8, 16, 16) in [−1, 1]."""
        for layer in (self.conv1, self.conv2, self.conv3):
            x = F.gelu(layer(x))
        feature = F.gelu(self.join(x.flatten(1)))
        embedding = F.normalize(self.project(feature), dim=1)
        return ClipReading(embedding, feature, self.motion(feature), self.tempo(feature))

    def of_prompts(self, tokens: list[tuple[int, ...]]) -> Tensor:
        """Embeddings (N, 96), normalized to length one, of prompts given as indices into `TOKENS`."""
        lengths = torch.tensor([0, *(len(row) for row in tokens[:-1])])
        words = self.words(torch.tensor([token for row in tokens for token in row]), lengths.cumsum(0))
        return F.normalize(self.prompt[1](F.gelu(self.prompt[0](words))), dim=1)


class QualityNet(nn.Module):
    """Network that judges frames by one logit. It is higher for less noise, blur, coarse grey levels and blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(3, 24), conv(24, 32), conv(32, 32)])
        self.out = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N,) of frames (N, 3, L, L)."""
        for layer in self.layers:
            x = F.gelu(layer(x))
        spread = (x.square().mean(dim=(2, 3)) + 1e-6).sqrt()
        return self.out(torch.cat([x.mean(dim=(2, 3)), spread], dim=1))[:, 0]


class Instruments(nn.Module):
    """All networks of mini-VBench (the *instruments*) as one module, stored in one file."""

    def __init__(self) -> None:
        super().__init__()
        self.frames, self.clips, self.quality = FrameNet(), ClipNet(), QualityNet()
        self.aesthetic = nn.Linear(FEATURES, 1)
