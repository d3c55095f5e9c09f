"""GPTQ (Frantar et al., 2023): quantizes a weight column by column; the columns that remain correct each error."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qdit.core.affine import dequantize, quantize
from qdit.core.errors import ConfigError, DataError
from qdit.core.grouping import check_group_size
from qdit.quant.ranges import zero_minmax
from qdit.quant.weight import QuantizedWeight, check_weight, stored_scale, stored_zero_point

Refit = Literal["stale", "updated"]


class HessianAccumulator:
    """Sums up GPTQ's Hessian H = 2/N Σ XᵀX (width, width) over N samples of a layer's inputs, in float32."""

    def __init__(self, width: int, *, device: torch.device | str = "cpu") -> None:
        self.hessian = torch.zeros(width, width, device=device)
        self.samples = 0

    def add(self, inputs: Tensor) -> None:
        """Add inputs (samples, …, width) to the Hessian. Dimensions between the first and the last are rows of X.

        N counts samples, not rows.
        """
        total = self.samples + len(inputs)
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).to(self.hessian)
        rows = (2 / total) ** 0.5 * rows
        self.hessian *= self.samples / total
        self.hessian += rows.t() @ rows
        self.samples = total


@dataclass(frozen=True)
class Columns:
    """Result of GPTQ: codes (out, in) as floats, scales and zero points (out, groups), and each input's group (in,)."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    group: Tensor

    def dequantize(self) -> Tensor:
        """Return the dequantized weight (out, in), float32."""
        return dequantize(self.codes, self.scale[:, self.group], self.zero_point[:, self.group])


def gptq(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int,
    group_size: int | None,
    damping: float = 0.01,
    block_size: int = 128,
    act_order: bool = False,
    static_groups: bool = False,
    scale_dtype: torch.dtype | None = torch.float16,
    stale_groups: bool = True,
) -> QuantizedWeight:
    """Quantize a weight (out, in) so that ‖(W − Ŵ) X‖ is small, with the Hessian of its inputs (in, in).

    A *grid* is a pair of scale and zero point. `group_size` None means one grid per output channel. Grids are
    asymmetric and contain zero. `act_order` processes columns with a large Hessian diagonal first. With groups it needs
    `static_groups`, where all grids come from the original weights. With `stale_groups` (as released) the grid of a
    group comes from weights without the updates of the current block of `block_size` columns. False takes the updated
    weights. Scales are rounded to `scale_dtype` before codes are computed; None keeps float32. Raises ConfigError,
    CheckpointError or DataError.
    """
    check_weight(weight, bits)
    if group_size is not None:
        check_group_size(group_size, weight.shape[1], "GPTQ")
    if act_order and group_size is not None and not static_groups:
        raise ConfigError("GPTQ: act_order with groups leaves no consecutive groups: use static_groups as well")
    if not hessian.diagonal().any():
        raise DataError(
            "GPTQ: the Hessian is zero: every calibration input of this layer is; round the layer to nearest"
        )
    solution = solve(
        weight,
        hessian,
        bits=bits,
        group_size=group_size,
        damping=damping,
        block_size=block_size,
        act_order=act_order,
        static_groups=static_groups,
        scale_dtype=scale_dtype,
        stale_groups=stale_groups,
    )
    return QuantizedWeight(
        codes=solution.codes.to(torch.int16),
        scale=solution.scale.to(scale_dtype or torch.float32),
        zero_point=stored_zero_point(solution.zero_point),
        bits=bits,
    )


def solve(
    weight: Tensor,
    hessian: Tensor,
    *,
    bits: int,
    group_size: int | None,
    damping: float = 0.01,
    block_size: int = 128,
    act_order: bool = False,
    static_groups: bool = False,
    scale_dtype: torch.dtype | None = None,
    stale_groups: bool = True,
) -> Columns:
    """Run the computation of `gptq` without the limits of a QuantizedWeight, which `gptq` returns.

    The last group may be short, and a group need not be consecutive. Columns whose input is always zero are set to
    zero. As released, the grid of a whole channel is computed before that, and the grids of groups after it. Codes are
    computed in float64. Grids are float32.
    """
    check_hessian(hessian, weight.shape[1])
    # In float32 the codes would depend on the number of threads: one flipped rounding changes the rest of its row.
    weight, hessian = weight.detach().to(torch.float64, copy=True), hessian.to(weight.device, torch.float64, copy=True)
    width = weight.shape[1]
    size = group_size or width
    grids = _Grids(len(weight), -(-width // size), bits, scale_dtype, weight.device)
    if group_size is None:
        grids.fit(0, weight)
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight[:, dead] = 0
    if static_groups and group_size is not None:
        for start in range(0, width, size):
            grids.fit(start // size, weight[:, start : start + size])
    order = torch.arange(width, device=weight.device)
    groups = order // size
    fitted = static_groups or group_size is None
    if act_order:
        order = hessian.diagonal().argsort(descending=True)
        weight, hessian = weight[:, order], hessian[order][:, order]
        groups = order // size if fitted else groups
    factor = inverse_factor(hessian, damping)
    refit: Refit | None = None if fitted else "stale" if stale_groups else "updated"
    codes = _quantize_columns(weight, factor, grids, groups.tolist(), size=size, refit=refit, block_size=block_size)
    undo = order.argsort()
    return Columns(codes[:, undo], grids.scale, grids.zero_point, groups[undo])


def _quantize_columns(
    weight: Tensor,
    factor: Tensor,
    grids: "_Grids",
    groups: list[int],
    *,
    size: int,
    refit: Refit | None,
    block_size: int,
) -> Tensor:
    """Codes (out, in); works in place on `weight`. `refit` says which weights the grid of a group is taken from."""
    width = weight.shape[1]
    codes = torch.empty(weight.shape, device=weight.device)
    for start in range(0, width, block_size):
        block = _Block(weight, factor, start, min(start + block_size, width))
        for column in range(block.start, block.end):
            stop = min(column + size, width)
            if refit is not None and column % size == 0:
                current = weight[:, column:stop] if refit == "stale" else block.updated(column, stop)
                grids.fit(groups[column], current)
            codes[:, column] = block.quantize(column, *grids.of(groups[column]), grids.bits)
        block.finish()
    return codes


class _Grids:
    """(scale, zero_point) of every group: (out, groups)."""

    def __init__(
        self, rows: int, groups: int, bits: int, scale_dtype: torch.dtype | None, device: torch.device
    ) -> None:
        self.scale = torch.ones(rows, groups, device=device)
        self.zero_point = torch.zeros(rows, groups, device=device)
        self.bits, self.scale_dtype = bits, scale_dtype

    def fit(self, index: int, weight: Tensor) -> None:
        """Min-max grid, extended to zero, of the columns of one group."""
        scale, zero_point = zero_minmax(weight.float(), self.bits)
        if self.scale_dtype is not None:
            scale = stored_scale(scale, self.scale_dtype).float()
        self.scale[:, index], self.zero_point[:, index] = scale[:, 0], zero_point[:, 0]

    def of(self, index: int) -> tuple[Tensor, Tensor]:
        return self.scale[:, index], self.zero_point[:, index]


class _Block:
    """Consecutive columns.

    Their own updates are applied immediately, those of later columns when the block is finished.
    """

    def __init__(self, weight: Tensor, factor: Tensor, start: int, end: int) -> None:
        self.weight, self.factor = weight, factor
        self.start, self.end = start, end
        self.columns = weight[:, start:end].clone()
        self.errors = torch.zeros_like(self.columns)

    def quantize(self, column: int, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
        """Codes (out,) of a column; its error goes to the columns of the block that follow."""
        i = column - self.start
        row = self.factor[column, column : self.end]
        values = self.columns[:, i]
        codes = quantize(values, scale, zero_point, bits)
        error = (values - (codes - zero_point) * scale) / row[0]
        self.columns[:, i:] -= error[:, None] @ row[None]
        self.errors[:, i] = error
        return codes

    def updated(self, column: int, stop: int) -> Tensor:
        """Columns `column` to `stop` with every update so far, also those beyond the block."""
        i = column - self.start
        later = slice(self.end, max(stop, self.end))
        due = self.errors[:, :i] @ self.factor[self.start : column, later]
        return torch.cat([self.columns[:, i : stop - self.start], self.weight[:, later] - due], dim=1)

    def finish(self) -> None:
        """Spread the errors over the columns after the block."""
        self.weight[:, self.end :] -= self.errors @ self.factor[self.start : self.end, self.end :]


def check_hessian(hessian: Tensor, width: int) -> None:
    """Raise DataError unless the Hessian is finite and has the width of the weight."""
    if tuple(hessian.shape) != (width, width):
        raise DataError(
            f"GPTQ: Hessian of shape {tuple(hessian.shape)} for a weight with {width} inputs: it must be"
            f" {(width, width)}; collect it on this layer's inputs"
        )
    if not hessian.isfinite().all():
        raise DataError("GPTQ: the Hessian has NaN or infinite values: check the calibration set")


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Compute the upper Cholesky factor of (H + damping · mean(diag H) · I)⁻¹.

    If this matrix is not positive definite, the damping is multiplied by 10, 100 and 1000 (at least 0.1, 1 and 10). If
    no damping works, DataError is raised.
    """
    mean = hessian.diagonal().mean()
    for attempt in (damping, *(max(damping, 0.01) * 10**power for power in (1, 2, 3))):
        damped = hessian.clone()
        damped.diagonal().add_(attempt * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and upper.isfinite().all():
            return upper
    raise DataError(
        f"GPTQ: the Hessian is not positive definite even with damping {attempt:g}: check the calibration set"
    )
