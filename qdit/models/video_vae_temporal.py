"""The 3-D part of Open-Sora's VAE: an autoencoder over time for the 2-D VAE's latents, with the official names.

Convolutions are causal: they pad with zeros only before the first frame. The group norms are not causal: they average
over all frames of a chunk. Chunks are independent of each other. The code follows Open-Sora's program.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TemporalConfig:
    """Configuration of the 3-D VAE. `multipliers` are the widths of the levels, relative to the first width.

    `downsample` says after which levels the number of frames is halved.
    """

    channels: int = 4
    filters: int = 128
    res_blocks: int = 4
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    downsample: tuple[bool, ...] = (False, True, True)
    groups: int = 32

    @property
    def time_factor(self) -> int:
        """Number of frames per latent frame."""
        return 2 ** sum(self.downsample)

    def padding(self, frames: int) -> int:
        """Number of zero frames put before a chunk, so that its length is a multiple of `time_factor`."""
        return -frames % self.time_factor

    def latent_frames(self, frames: int) -> int:
        """Number of latent frames of a chunk of `frames` frames."""
        return -(-frames // self.time_factor)


class CausalConv3d(nn.Module):
    """Convolution in which no frame depends on later frames. `stride` is the stride along time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        side = kernel // 2
        self.padding = (side, side, side, side, kernel - stride, 0)
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride=(stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class ResBlock(nn.Module):
    """Residual block: x + conv(SiLU(norm(conv(SiLU(norm(x)))))).

    If the width changes, x goes through a 1×1×1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = CausalConv3d(inputs, outputs, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = CausalConv3d(outputs, outputs, 3, bias=False)
        if inputs != outputs:
            self.conv3 = CausalConv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv3(x) if hasattr(self, "conv3") else x)


def res_blocks(inputs: int, outputs: int, config: TemporalConfig) -> nn.ModuleList:
    """Make the residual blocks of one level. The first block changes the width from `inputs` to `outputs`."""
    widths = [inputs, *[outputs] * config.res_blocks]
    return nn.ModuleList(ResBlock(before, outputs, config.groups) for before in widths[:-1])


class Encoder(nn.Module):
    """Encoder of the 3-D VAE. Latents of frames (N, C, T, H, W) → features (N, 2C, T / time_factor, H, W).

    The features become mean and log-variance.
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        widths = [config.filters * multiplier for multiplier in config.multipliers]
        self.conv_in = CausalConv3d(config.channels, config.filters, 3, bias=False)
        before = [config.filters, *widths[:-1]]
        self.block_res_blocks = nn.ModuleList(res_blocks(*pair, config) for pair in zip(before, widths, strict=True))
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, stride=2) if halved else nn.Identity()
            for width, halved in zip(widths, config.downsample, strict=False)
        )
        self.res_blocks = res_blocks(widths[-1], widths[-1], config)
        self.norm1 = nn.GroupNorm(config.groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = nn.Sequential(*cast(nn.ModuleList, blocks))(x)
            x = self.conv_blocks[level](x) if level < len(self.conv_blocks) else x
        x = nn.Sequential(*self.res_blocks)(x)
        return self.conv2(F.silu(self.norm1(x)))


class Decoder(nn.Module):
    """Decoder of the 3-D VAE: (N, C, T, H, W) → (N, C, T · time_factor, H, W).

    To double the number of frames, channels are rearranged as frames.
    """

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        widths = [config.filters * multiplier for multiplier in config.multipliers]
        self.conv1 = CausalConv3d(config.channels, widths[-1], 3)
        self.res_blocks = res_blocks(widths[-1], widths[-1], config)
        before = [*widths[1:], widths[-1]]
        self.block_res_blocks = nn.ModuleList(res_blocks(*pair, config) for pair in zip(before, widths, strict=True))
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if doubled else nn.Identity()
            for width, doubled in zip(widths[1:], config.downsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(config.groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], config.channels, 3)
        self.doubled = config.downsample

    def forward(self, x: Tensor) -> Tensor:
        x = nn.Sequential(*self.res_blocks)(self.conv1(x))
        for level in reversed(range(len(self.block_res_blocks))):
            x = nn.Sequential(*cast(nn.ModuleList, self.block_res_blocks[level]))(x)
            if level and self.doubled[level - 1]:
                # Channel c of frame t comes from channel 2c + (t mod 2) of frame t // 2.
                x = self.conv_blocks[level - 1](x).unflatten(1, (-1, 2)).movedim(2, 3).flatten(2, 3)
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalVAE(nn.Module):
    """Encoder and decoder of the 3-D VAE for a single chunk of frames."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.channels, 2 * config.channels, 1)
        self.post_quant_conv = CausalConv3d(config.channels, config.channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (N, C, T, H, W) as mean and log-variance, each (N, C, ⌈T / time_factor⌉, H, W).

        Zero frames are put before the chunk if T is no multiple of `time_factor`.
        """
        padded = F.pad(x, (0, 0, 0, 0, self.config.padding(x.shape[2]), 0))
        mean, log_variance = self.quant_conv(self.encoder(padded)).chunk(2, dim=1)
        return mean, torch.clamp(log_variance, -30, 20)

    def decode(self, z: Tensor, frames: int) -> Tensor:
        """Decode latents (N, C, ⌈frames / time_factor⌉, H, W) to (N, C, frames, H, W).

        The frames of the padding are cut off.
        """
        decoded: Tensor = self.decoder(self.post_quant_conv(z))
        return decoded[:, :, self.config.padding(frames) :]
