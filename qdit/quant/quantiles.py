"""Quantiles of rows of any length, by partial sorting.

The values equal those of torch.quantile, which sorts completely and has a limit of length.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def quantiles(rows: Tensor, fractions: Sequence[float]) -> Tensor:
    """Linearly interpolated quantiles of each row: (R, n) → (R, len(fractions)).

    As in torch.quantile, the fractions are first rounded to float32. Positions in the sorted row are then float64.
    """
    position = torch.tensor(fractions, dtype=torch.float32).double() * (rows.shape[1] - 1)
    below, above = position.floor().long(), position.ceil().long()
    ordered = _order(rows, sorted({*below.tolist(), *above.tolist()}))
    return torch.lerp(ordered[:, below], ordered[:, above], (position - below).to(rows))


def _order(rows: Tensor, positions: list[int]) -> Tensor:
    """Rows in which at least the given positions hold what they would after sorting."""
    if rows.is_cuda:
        return rows.sort(dim=1).values
    return torch.from_numpy(np.partition(rows.detach().numpy(), positions, axis=1))
