"""Range search: for each row, find the candidate (scale, zero_point) with the smallest error.

Rows are computed in blocks that fit into the cache. So a row may have any number of elements (activations), and there
may be any number of rows (groups of a weight). The compiled library computes float32 on a CPU in one pass; otherwise
torch does. The two add the terms of the error in different orders.
"""

import torch
from torch import Tensor

from qdit.kernels import learning
from qdit.kernels.dispatch import learning_backend

CPU_BLOCK = 2**17
GPU_BLOCK = 2**24
"""Elements worked on at once: what fits a CPU's second-level cache; on a GPU enough to hide the kernel launches."""


def lowest_error(
    rows: Tensor, scales: Tensor, zero_points: Tensor, bits: int, *, power: float, default: int = 0
) -> Tensor:
    """Return the index (R, 1) of the candidate with the lowest Σ |x − x̂|^power, for each row.

    `rows` is (R, n). `scales` and `zero_points` are (R, C), one column per candidate. Codes are 0 … 2^bits − 1. Of
    candidates with equal errors the first wins. A candidate whose error is not finite never wins. If no error is
    finite, the result is `default`.
    """
    compiled_backend = learning_backend(rows, scales, zero_points)
    if compiled_backend is not None:
        return learning.lowest_error(
            *(compiled_backend, rows.detach(), scales, zero_points),
            levels=2**bits - 1,
            power=power,
            default=default,
        )
    block = GPU_BLOCK if rows.is_cuda else CPU_BLOCK
    count, width = rows.shape
    if count == 1 and width > block:
        index = _search_long_row(rows, scales, zero_points, 2**bits - 1, power, block, default)
        return torch.tensor([[index]], device=rows.device)
    step = max(1, block // width)
    parts = [slice(start, start + step) for start in range(0, count, step)]
    return torch.cat(
        [_search_rows(rows[p], scales[p], zero_points[p], 2**bits - 1, power, block, default) for p in parts]
    )


def choose(candidates: Tensor, index: Tensor) -> Tensor:
    """Take one candidate of each row: (R, C) and indices (R, 1) → (R, 1)."""
    return candidates.gather(1, index)


def _search_rows(
    rows: Tensor, scales: Tensor, zero_points: Tensor, levels: int, power: float, block: int, default: int
) -> Tensor:
    """`lowest_error` for rows that are searched together."""
    best = torch.full((len(rows), 1), torch.inf, dtype=torch.float64, device=rows.device)
    index = torch.full((len(rows), 1), default, device=rows.device)
    for candidate in range(scales.shape[1]):
        column = slice(candidate, candidate + 1)
        error = _mean_error(rows, scales[:, column], zero_points[:, column], levels, power, block)
        better = error < best
        best = torch.where(better, error, best)
        index.masked_fill_(better, candidate)
    return index


def _mean_error(rows: Tensor, scale: Tensor, zero_point: Tensor, levels: int, power: float, block: int) -> Tensor:
    """(R, 1): float32 within a block, as the original programs do; float64 across the blocks of a long row."""
    pieces = rows.split(block, dim=1)
    if len(pieces) == 1:
        return _errors(rows, scale, zero_point, levels, power).mean(dim=1, keepdim=True).double()
    return sum(_block_sum(p, scale, zero_point, levels, power) for p in pieces) / rows.shape[1]  # type: ignore[return-value]


def _search_long_row(
    row: Tensor, scales: Tensor, zero_points: Tensor, levels: int, power: float, block: int, default: int
) -> int:
    """`lowest_error` for one row (1, n): a candidate is given up once its partial sum exceeds the best total.

    Terms are not negative and every candidate is summed in the same order, so the answer is that of the full sums.
    """
    first, *rest = row.split(block, dim=1)
    pairs = [(scales[:, c : c + 1], zero_points[:, c : c + 1]) for c in range(scales.shape[1])]
    heads = [float(_block_sum(first, *pair, levels, power)) for pair in pairs]
    best, index = torch.inf, default
    for candidate in sorted(range(len(pairs)), key=heads.__getitem__):
        total = heads[candidate]
        for piece in rest:
            if not total <= best:
                break
            total += float(_block_sum(piece, *pairs[candidate], levels, power))
        if total < best or (total == best < torch.inf and candidate < index):
            best, index = total, candidate
    return index


def _block_sum(x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, power: float) -> Tensor:
    return _errors(x, scale, zero_point, levels, power).sum(dim=1, keepdim=True).double()


def _errors(x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, power: float) -> Tensor:
    """|x − x̂|^power of every element, in one buffer."""
    codes = torch.div(x, scale).round_().add_(zero_point).clamp_(0, levels)
    return codes.sub_(zero_point).mul_(scale).sub_(x).abs_().pow_(power)
