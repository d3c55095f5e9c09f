"""Conversion of images to bytes (uint8), by the same rule for all protocols."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

UINT8_RULE = "truncate(127.5 x + 128)"


def to_uint8(images: "Tensor") -> "Tensor":
    """Convert images from [−1, 1] to uint8: clamp(127.5 x + 128), rounded down, as ADM and DiT write images."""
    return (127.5 * images + 128).clamp(0, 255).byte()
