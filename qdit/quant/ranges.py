"""Range rules: functions that compute scale and zero point from values. There is one function per published rule.

A function takes rows (R, n) in float32. All values of a row share one pair. It returns (scale, zero_point), both (R,
1). Codes are 0 … 2^bits − 1, and x̂ = (code − zero_point) · scale. docs/methods.md lists the rules (S1 to S5). Rounding
is half to even. A row may have any number of elements. A zero point is clamped to the codes only where the original
program clamps it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from qdit.core.affine import minmax_asymmetric, minmax_symmetric
from qdit.quant.quantiles import quantiles
from qdit.quant.search import choose, lowest_error

Ranges = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(rows (R, n), bits) → (scale, zero_point); give options with functools.partial."""

Side = Literal["both", "positive", "negative"]

PERCENTILES = (0.999, 0.9999, 0.99999)
SMALLEST_SCALE = 1e-8
"""Scales of the threshold search and of the raw range are not allowed below this (QDrop, Q-Diffusion)."""


def extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest value of each row, (R, 1) each."""
    low, high = rows.aminmax(dim=-1, keepdim=True)
    return low, high


def minmax(rows: Tensor, bits: int, *, symmetric: bool = False, include_zero: bool = True) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point from each row's min and max (Q-DiT). `symmetric`: zero point 0, signed codes."""
    low, high = extremes(rows)
    if symmetric:
        return minmax_symmetric(low, high, bits)
    return minmax_asymmetric(low, high, bits, include_zero=include_zero)


def zero_minmax(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point as GPTQ does: min-max, extended to zero. A row of zeros gets the range [−1, 1]."""
    low, high = extremes(rows)
    return _with_zero(low, high, bits)


def raw_minmax(rows: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point as Q-Diffusion does, in float64.

    The scale comes from the range [low, high], which is not extended to 0. The zero point comes from min(low, 0).
    """
    low, high = (edge.double() for edge in extremes(rows))
    scale = ((high - low) / (2**bits - 1)).clamp(min=SMALLEST_SCALE)
    return scale.float(), (-low.clamp(max=0) / scale).round().float()


def running_parameters(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point of TFMQ-DM from a moving average of ranges.

    The range is extended to zero. The zero point is not clamped to the codes.
    """
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=SMALLEST_SCALE).float()
    return scale, (-low.float() / scale).round()


def percentile_search(rows: Tensor, bits: int, *, percentiles: Sequence[float] = PERCENTILES) -> tuple[Tensor, Tensor]:
    """Rule S2 (RepQ-ViT, PTQ4DiT): take the range between quantiles 1 − p and p with the smallest squared error."""
    high = quantiles(rows, percentiles)
    low = quantiles(rows, [1 - p for p in percentiles])
    return _unclamped_search(rows, low, high, bits, power=2.0)


def shrink_search(
    rows: Tensor, bits: int, *, steps: int = 80, step: float = 0.01, power: float = 2.4
) -> tuple[Tensor, Tensor]:
    """Shrink search (Q-Diffusion, TFMQ-DM): take the range (1 − step·i)(low, high), i < steps, with the smallest error.

    The error is Σ |x − x̂|^power.
    """
    low, high = extremes(rows)
    shrink = _shrink(rows, steps, step)
    return _unclamped_search(rows, low * shrink, high * shrink, bits, power=power)


def minmax_search(
    rows: Tensor,
    bits: int,
    *,
    symmetric: bool = False,
    include_zero: bool = True,
    steps: int = 100,
    step: float = 0.001,
    power: float = 2.4,
) -> tuple[Tensor, Tensor]:
    """Do a shrink search in which `minmax` computes each candidate (range `mse` of Q-DiT's program for weights)."""
    low, high = extremes(rows)
    shrink = _shrink(rows, steps, step)
    low, high = low * shrink, high * shrink
    if symmetric:
        scales, zero_points = minmax_symmetric(low, high, bits)
        shift = 2 ** (bits - 1)
    else:
        scales, zero_points = minmax_asymmetric(low, high, bits, include_zero=include_zero)
        shift = 0
    index = lowest_error(rows, scales, zero_points + shift, bits, power=power)
    return choose(scales, index), choose(zero_points, index)


def side_of(x: Tensor) -> Side:
    """Return the sign of all values: positive, negative or both. PTQ4DM decides it once, on the first tensor."""
    low, high = x.aminmax()
    return "positive" if low >= 0 else "negative" if high <= 0 else "both"


def threshold_range(
    rows: Tensor, bits: int, *, side: Side | None = None, steps: int = 100, power: float = 2.4
) -> tuple[Tensor, Tensor]:
    """Rule S4 (PTQ4DM, QDrop): find the range [−t, t] with the smallest error, t = T · i / steps and T = max |x|.

    If all values have one sign, the range is [0, t] or [−t, 0]. With `side` None all rows together decide the sign. For
    static activations, `ema` averages these ranges over batches.
    """
    low, high = extremes(rows)
    low, high = low.clamp(max=0), high.clamp(min=0)
    side = side or side_of(rows)
    fractions = torch.arange(1, steps + 1, dtype=rows.dtype, device=rows.device)
    thresholds = torch.maximum(low.abs(), high) / steps * fractions
    lows = torch.zeros_like(thresholds) if side == "positive" else -thresholds
    highs = torch.zeros_like(thresholds) if side == "negative" else thresholds
    index = lowest_error(rows, *threshold_parameters(lows, highs, bits), bits, power=power, default=steps - 1)
    return choose(lows, index), choose(highs, index)


def threshold_range_2d(
    rows: Tensor, bits: int, *, side: Side | None = None, steps: int = 100, power: float = 2.4
) -> tuple[Tensor, Tensor]:
    """Find the range by width and zero point: each width R · i / steps, R = high − low, with each zero point.

    If all values have one sign, this is the one-dimensional search of `threshold_range`. There are 100 · 2^b candidates
    for b bits. At 8 bits a long row takes minutes.
    """
    side = side or side_of(rows)
    if side != "both":
        return threshold_range(rows, bits, side=side, steps=steps, power=power)
    low, high = extremes(rows)
    levels = 2**bits - 1
    fractions = torch.arange(1, steps + 1, dtype=rows.dtype, device=rows.device)
    widths = ((high - low) / steps * fractions)[:, :, None]
    zero_points = torch.arange(levels + 1, dtype=rows.dtype, device=rows.device)
    lows = -zero_points * (widths / levels)
    highs = (lows + widths).flatten(1)
    lows = lows.flatten(1)
    default = (steps - 1) * (levels + 1) + 2 ** (bits - 1)
    index = lowest_error(rows, *threshold_parameters(lows, highs, bits), bits, power=power, default=default)
    return choose(lows, index), choose(highs, index)


def threshold_parameters(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point of a range that is first extended to contain zero (QDrop).

    The scale is at least 1e-8, and the zero point is clamped to the codes.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    levels = 2**bits - 1
    scale = ((high - low) / levels).clamp(min=SMALLEST_SCALE)
    return scale, (-(low / scale).round()).clamp(0, levels)


def threshold_search(
    rows: Tensor, bits: int, *, side: Side | None = None, two_dimensional: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute scale and zero point of the range that the threshold search (S4) finds for each row."""
    find = threshold_range_2d if two_dimensional else threshold_range
    return threshold_parameters(*find(rows, bits, side=side), bits)


def ema(running: Tensor, new: Tensor, momentum: float) -> Tensor:
    """Return the moving average momentum · running + (1 − momentum) · new.

    TFMQ-DM and PTQ4DiT use momentum 0.95, Q-DiT and PTQ4DM 0.9.
    """
    return running * momentum + new * (1 - momentum)


def _shrink(rows: Tensor, steps: int, step: float) -> Tensor:
    """1 − step·i, i < steps, rounded once from float64."""
    factors = [1.0 - i * step for i in range(steps)]
    return torch.tensor(factors, dtype=rows.dtype, device=rows.device)


def _with_zero(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    low, high = low.clamp(max=0), high.clamp(min=0)
    empty = (low == 0) & (high == 0)
    low, high = low.masked_fill(empty, -1), high.masked_fill(empty, 1)
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round()


def _unclamped_search(rows: Tensor, low: Tensor, high: Tensor, bits: int, *, power: float) -> tuple[Tensor, Tensor]:
    """The best of candidate ranges (R, C) that need not contain zero; zero points are not clamped.

    The original programs have no result for a row whose ranges are all empty (constant values). Here it gets the range
    of `zero_minmax`.
    """
    scales = (high - low) / (2**bits - 1)
    zero_points = (-low / scales).round()
    index = lowest_error(rows, scales, zero_points, bits, power=power)
    scale, zero_point = choose(scales, index), choose(zero_points, index)
    usable = (scale > 0) & zero_point.isfinite()
    if usable.all():
        return scale, zero_point
    fallback = zero_minmax(rows, bits)
    return torch.where(usable, scale, fallback[0]), torch.where(usable, zero_point, fallback[1])
