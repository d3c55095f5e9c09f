"""Quantiles of rows of any length, by partial sorting.

The values equal those of torch.quantile, which sorts completely and has a limit of length.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ENDS = 1 / 8
"""Share of a row up to which its largest and smallest values alone are sorted on a GPU."""


def quantiles(rows: Tensor, fractions: Sequence[float]) -> Tensor:
    """Compute linearly interpolated quantiles of each row: (R, n) → (R, len(fractions)).

    As in torch.quantile, the fractions are first rounded to float32. Positions in the sorted row are then float64.
    """
    position = torch.tensor(fractions, dtype=torch.float32).double() * (rows.shape[1] - 1)
    below, above = position.floor().long(), position.ceil().long()
    positions = sorted({*below.tolist(), *above.tolist()})
    ordered = at_ends(rows, positions) if rows.is_cuda else _partitioned(rows, positions)
    lower, upper = (torch.tensor([positions.index(index) for index in side.tolist()]) for side in (below, above))
    return torch.lerp(ordered[:, lower], ordered[:, upper], (position - below).to(rows))


def at_ends(rows: Tensor, positions: Sequence[int]) -> Tensor:
    """Return the values (R, len(positions)) at some positions of the sorted rows (R, n).

    Sorting a whole long row takes seven times its memory. If all positions are close to the two ends, only the ends are
    sorted.
    """
    width = rows.shape[1]
    smallest = max((index + 1 for index in positions if index < width / 2), default=0)
    largest = max((width - index for index in positions if index >= width / 2), default=0)
    if smallest + largest > ENDS * width:
        return rows.sort(dim=1).values[:, torch.tensor(positions)]
    low = rows.topk(smallest, dim=1, largest=False).values
    high = rows.topk(largest, dim=1).values
    return torch.stack(
        [low[:, index] if index < width / 2 else high[:, width - 1 - index] for index in positions], dim=1
    )


def _partitioned(rows: Tensor, positions: list[int]) -> Tensor:
    """The same by partial sorting on the CPU."""
    return torch.from_numpy(np.partition(rows.detach().numpy(), positions, axis=1)[:, positions])
