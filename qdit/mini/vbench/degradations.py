"""Damage to frames and clips. The instruments are trained on it, and it must lower their scores.

Frames are (N, 3, H, W), clips (N, 3, T, H, W), with pixels in [−1, 1]. A severity (N,) is in [0, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape values (N,) to (N, 1, …, 1), so that they broadcast against `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def noisy(x: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise with standard deviation (N,) to each pixel and channel; clamp to [−1, 1]."""
    return (x + per_row(deviation, x) * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def blurred(x: Tensor, severity: Tensor) -> Tensor:
    """Mix each frame with its 5×5 binomial blur."""
    weights = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    flat = x.reshape(-1, 1, *x.shape[-2:])
    padded = F.pad(flat, (2, 2, 2, 2), mode="replicate")
    soft = F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, 5)), weights.view(1, 1, 5, 1)).reshape(x.shape)
    return torch.lerp(x, soft, per_row(severity, x))


def posterized(x: Tensor, severity: Tensor) -> Tensor:
    """Round each channel to few levels: 17 at severity 0, 2 at severity 1."""
    steps = per_row((16 - 15 * severity).round(), x)
    return ((x + 1) / 2 * steps).round() / steps * 2 - 1


def blocky(x: Tensor, severity: Tensor) -> Tensor:
    """Mix each frame with its means over blocks of 4×4 pixels."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    coarse = F.interpolate(F.avg_pool2d(flat, 4), scale_factor=4.0, mode="nearest").reshape(x.shape)
    return torch.lerp(x, coarse, per_row(severity, x))


def recomposed(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Break the composition of frames (N, 3, H, W): shuffle quarters, wash out, or wrap around the edges."""
    out, half = frames.clone(), frames.shape[-1] // 2
    for row, kind in enumerate(torch.randint(3, (len(frames),), generator=generator).tolist()):
        if kind == 0:
            tiles = frames[row].unfold(1, half, half).unfold(2, half, half).flatten(1, 2)
            order = torch.randperm(3, generator=generator) + 1
            tiles = tiles[:, torch.cat([order, torch.zeros(1, dtype=torch.long)])]
            upper, lower = torch.cat([tiles[:, 0], tiles[:, 1]], 2), torch.cat([tiles[:, 2], tiles[:, 3]], 2)
            out[row] = torch.cat([upper, lower], 1)
        elif kind == 1:
            out[row] = 0.3 * frames[row]
        else:
            shift = [int(torch.randint(half // 2, half + half // 2, (), generator=generator)) for _ in range(2)]
            out[row] = frames[row].roll(shift, dims=(1, 2))
    return out
