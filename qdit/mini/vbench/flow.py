"""Motion between frames by block matching. It replaces RAFT (optical flow) and AMT (frame interpolation) of VBench.

Clips are (N, 3, T, H, W) in [0, 1]. Displacements are whole pixels. Nothing is learned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 3
"""Largest displacement per frame that is looked for, in pixels along each axis."""
HALF_REACH = 2
"""The same for interpolation: from the middle to either neighbour."""
WINDOW = 5
"""Side of the compared blocks in pixels."""
STILL_PRIOR = 2e-3
"""What a displacement must win over standing still, per pixel of its length: mean absolute grey difference."""
FASTEST = 0.05
"""Fraction of pixels whose speed counts, as in VBench."""
LUMA = (0.299, 0.587, 0.114)


def grey(clips: Tensor) -> Tensor:
    """Grey levels (N, T, H, W) of clips (N, 3, T, H, W)."""
    return torch.einsum("ncthw,c->nthw", clips, torch.tensor(LUMA, dtype=clips.dtype))


def displacements(reach: int) -> list[tuple[int, int]]:
    """List all displacements (down, across) of at most `reach` pixels in each direction. The first is (0, 0)."""
    span = range(-reach, reach + 1)
    return sorted(((dy, dx) for dy in span for dx in span), key=lambda d: (d[0] ** 2 + d[1] ** 2, d))


def moved(frames: Tensor, down: int, across: int) -> Tensor:
    """Shift frames (…, H, W): out[y, x] = in[y + down, x + across]."""
    reach = max(abs(down), abs(across))
    flat = frames.reshape(-1, 1, *frames.shape[-2:])
    padded = F.pad(flat, (reach,) * 4, mode="replicate") if reach else flat
    height, width = frames.shape[-2:]
    cut = padded[..., reach + down : reach + down + height, reach + across : reach + across + width]
    return cut.reshape(frames.shape)


def block_mean(values: Tensor) -> Tensor:
    """Mean of values (N, T, H, W) over the block around each pixel."""
    return F.avg_pool2d(values, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)


def speeds(clips: Tensor) -> Tensor:
    """Speed (N, T − 1, H, W) of each pixel from a frame to the next frame, in pixels."""
    frames = grey(clips)
    before, after = frames[:, :-1], frames[:, 1:]
    steps = displacements(REACH)
    lengths = torch.tensor([(dy * dy + dx * dx) ** 0.5 for dy, dx in steps], dtype=frames.dtype)
    costs = torch.stack([block_mean((moved(after, dy, dx) - before).abs()) for dy, dx in steps], dim=-1)
    return lengths[(costs + STILL_PRIOR * lengths).argmin(dim=-1)]


def flow_magnitude(clips: Tensor) -> Tensor:
    """Mean speed (N, T − 1), in pixels, of the fastest 5 % of the pixels between successive frames."""
    speed = speeds(clips).flatten(2)
    count = max(1, round(FASTEST * speed.shape[-1]))
    return speed.topk(count, dim=-1).values.mean(dim=-1)


def midpoint_error(clips: Tensor) -> Tensor:
    """Mean absolute error (N, ⌊(T − 1)/2⌋) of each odd frame when it is interpolated from its two neighbours.

    A pixel of the interpolated frame is the mean of two pixels: one in the frame before, a displacement away, and one
    in the frame after, the same displacement away in the opposite direction. The displacement whose blocks agree best
    is used.
    """
    frames = grey(clips)
    before, after = clips[:, :, :-2:2], clips[:, :, 2::2]
    grey_before, grey_after = frames[:, :-2:2], frames[:, 2::2]
    best = torch.full_like(grey_before, torch.inf)
    middle = torch.zeros_like(before)
    for dy, dx in displacements(HALF_REACH):
        gap = (moved(grey_after, dy, dx) - moved(grey_before, -dy, -dx)).abs()
        cost = block_mean(gap) + STILL_PRIOR * (dy * dy + dx * dx) ** 0.5
        mean = (moved(after, dy, dx) + moved(before, -dy, -dx)) / 2
        better = cost < best
        best = torch.where(better, cost, best)
        middle = torch.where(better[:, None], mean, middle)
    return (middle - clips[:, :, 1:-1:2]).abs().mean(dim=(1, 3, 4))
