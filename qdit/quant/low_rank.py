"""Low-rank branch of a site: two thin matrices in 16 bits beside the quantized product (SVDQuant, Eq. 5–6).

A weight is written as L1 L2 + R. Only R is quantized: y = L1 L2 (T x) + Q(R) Q(T x) + b. So the input of the branch is
the transformed input, without rounding.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.errors import CheckpointError, ConfigError
from qdit.models.roles import Site
from qdit.quant.weight_kinds import StoredWeight, require_tensor


class LowRank(nn.Module):
    """Low-rank branch x → up (down x), (…, in) → (…, out). Factors are float16: `up` (out, rank), `down` (rank, in).

    The factors are rounded to float16 first, so that the residual can be computed from the stored numbers.
    """

    up: Tensor
    down: Tensor

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or up.shape[1] < 1:
            raise ConfigError(f"low rank: factors {tuple(up.shape)} and {tuple(down.shape)} have no product")
        for name, factor in (("up", up), ("down", down)):
            half = factor.detach().half().contiguous()  # as a loaded one: strides change bits
            if not half.isfinite().all():
                raise CheckpointError(
                    f"low rank: factor {name} reaches {float(factor.abs().max()):g}, and float16 ends at 65504; scale"
                    " the factors"
                )
            self.register_buffer(name, half)

    @property
    def rank(self) -> int:
        """Rank of the branch: the inner dimension of up · down."""
        return self.down.shape[0]

    def product(self) -> Tensor:
        """Compute the weight of the branch, up · down: (out, in), float32."""
        return (self.up.double() @ self.down.double()).float()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))

    def spec(self) -> dict[str, Any]:
        """Return the rank as JSON."""
        return {"rank": self.rank}

    @classmethod
    def build(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Self:
        """Build the branch from a file's tensors; CheckpointError if its factors do not fit a weight of this shape."""
        rank = int(spec["rank"])
        up = require_tensor(tensors, "up", torch.float16, (shape[0], rank))
        return cls(up, require_tensor(tensors, "down", torch.float16, (rank, shape[1])))


def low_rank(weight: Tensor, rank: int) -> LowRank:
    """Compute the branch of this rank with the least squared distance to a weight (out, in), by its singular values.

    Both factors get the square roots of the largest singular values. They are computed in float64, then rounded to
    float16. Raises ConfigError for a rank that is not possible.
    """
    most = min(weight.shape)
    if not 1 <= rank <= most:
        raise ConfigError(f"low rank: rank {rank}; allowed are 1 to {most} for a weight {tuple(weight.shape)}")
    left, singular, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    root = singular[:rank].sqrt()
    return LowRank(left[:, :rank] * root, root[:, None] * right[:rank])


def residual(weight: StoredWeight | Tensor, old: LowRank | None, new: LowRank, site: Site) -> Tensor:
    """Compute a site's floating-point weight minus the product of the branch `new`, plus that of the branch `old`."""
    if not isinstance(weight, Tensor):
        raise ConfigError(f"{site.name}: its weight is quantized already; put the branch in before, or give both")
    matrix = weight.detach().flatten(1)
    whole = matrix.double() if old is None else matrix.double() + old.product().double()
    if new.product().shape != whole.shape:
        shapes = f"{tuple(new.product().shape)} beside a weight {tuple(whole.shape)}"
        raise ConfigError(f"{site.name}: a branch of shape {shapes}")
    return (whole - new.product().double()).to(weight.dtype)
