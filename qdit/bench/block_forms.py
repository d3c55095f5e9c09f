"""Make one block of DiT-XL/2 that is quantized as a method quantizes the block of a small model.

The time of a block depends on what its sites hold, not on the values. So a method quantizes a DiT of an eighth of the
width, which takes a second. Its sites are then enlarged: each tensor is repeated, each row keeps its number of groups,
and ranks and blocks of rotations grow with the width. Groups of 16 become groups of 128, rank 4 becomes rank 32.
"""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from qdit.core.affine import group
from qdit.core.errors import Unsupported
from qdit.models.roles import replace
from qdit.quant.activation import Activation, DynamicActivation, StaticActivation
from qdit.quant.checkpoint import quantized_sites
from qdit.quant.grid_activations import FloatActivation, MxActivation, NvFp4Activation
from qdit.quant.grid_weights import MX_BLOCK, MxWeight, NvFp4Weight, mx_weight, nvfp4_weight
from qdit.quant.low_rank import LowRank
from qdit.quant.sites import FoldedLayerNorm, QuantizedLinear, QuantizedOperand, QuantizedSite, stored_weight
from qdit.quant.transforms import Chain, Divide, Hadamard, Orthogonal, Shift, Transform, hadamard_matrix
from qdit.quant.weight import QuantizedWeight
from qdit.quant.weight_kinds import StoredWeight


def enlarged_block(large: nn.Module, small: nn.Module, times: int) -> nn.Module:
    """Copy a large block with random weights, and quantize its sites in the same way as those of a small block.

    `times` is the width of the large block divided by that of the small one. Unsupported for kinds of weights,
    quantizers or transforms that cannot be enlarged here.
    """
    block = deepcopy(large)
    for name, site in quantized_sites(small).items():
        replace(block, name, enlarged_site(site, times))
    return block.eval()


def enlarged_site(site: QuantizedSite, times: int) -> QuantizedSite:
    """Enlarge a quantized site to `times` as many inputs and outputs."""
    if isinstance(site, FoldedLayerNorm):
        return FoldedLayerNorm(inverse=site.inverse.repeat(times), offset=site.offset.repeat(times))
    if isinstance(site, QuantizedOperand):
        return QuantizedOperand(cast(Activation, enlarged_activation(site.activation, times)))
    if type(site) is not QuantizedLinear:
        raise Unsupported(f"no full-size form of a {type(site).__name__} in this benchmark")
    return QuantizedLinear(
        weight=enlarged_weight(stored_weight(site), times),
        bias=None if site.bias is None else site.bias.repeat(times),
        activation=enlarged_activation(site.activation, times),
        transform=None if site.transform is None else enlarged_chain(site.transform, times),
        low_rank=None if site.low_rank is None else enlarged_branch(site.low_rank, times),
    )


def enlarged_weight(weight: StoredWeight | Tensor, times: int) -> StoredWeight | Tensor:
    """Enlarge a weight: its rows and columns are repeated.

    A row keeps its number of groups; MX and NVFP4 keep block sizes.
    """
    if isinstance(weight, Tensor):
        return weight.repeat(times, times) / times
    if isinstance(weight, QuantizedWeight):
        return enlarged_uniform(weight, times)
    if isinstance(weight, MxWeight):
        return mx_weight(weight.dequantize().repeat(times, times), element=weight.element, block_size=MX_BLOCK)
    if isinstance(weight, NvFp4Weight):
        return nvfp4_weight(weight.dequantize().repeat(times, times))
    raise Unsupported(f"no full-size form of weight kind {weight.kind} in this benchmark")


def enlarged_uniform(weight: QuantizedWeight, times: int) -> QuantizedWeight:
    """Enlarge a weight of codes: codes are repeated inside each group, so that code − zero point keeps its range."""
    codes = group(weight.codes, weight.group_size).repeat(times, 1, times).flatten(1)
    rows = 1 if len(weight.scale) < len(weight.codes) else times
    scale = (weight.scale.float() / times).to(weight.scale.dtype)
    return QuantizedWeight(codes, scale.repeat(rows, 1), weight.zero_point.repeat(rows, 1), weight.bits)


def enlarged_activation(activation: Activation | None, times: int) -> Activation | None:
    """Enlarge an input quantizer to `times` as many channels, with as many groups as before.

    Unsupported for a kind of quantizer that cannot be enlarged here.
    """
    if activation is None or isinstance(activation, NvFp4Activation):
        return activation
    larger = deepcopy(activation)
    if isinstance(larger, DynamicActivation | FloatActivation):
        larger.group_size = None if larger.group_size is None else times * larger.group_size
    elif isinstance(larger, MxActivation):
        larger.block_size = MX_BLOCK
    elif type(larger) is not StaticActivation:
        raise Unsupported(f"no full-size form of input quantizer kind {larger.kind} in this benchmark")
    return larger


def enlarged_chain(chain: Chain, times: int) -> Chain:
    """Enlarge each transform of a chain to `times` as many channels."""
    return Chain([enlarged_transform(step, times) for step in chain.steps()])


def enlarged_transform(step: Transform, times: int) -> Transform:
    """Enlarge an input transform to `times` as many channels. A rotation's blocks grow by the same factor.

    For rotations `times` must be a power of two.
    """
    if isinstance(step, Divide):
        return Divide(step.factor.repeat(times))
    if isinstance(step, Shift):
        return Shift(step.offset.repeat(times))
    if isinstance(step, Hadamard):
        signs = None if step.signs is None else step.signs.repeat(times)
        return Hadamard(step.width * times, size=step.size * times, signs=signs)
    if isinstance(step, Orthogonal):
        matrix = torch.kron(step.matrix.double(), hadamard_matrix(times))
        return Orthogonal(step.width * times, matrix)
    raise Unsupported(f"no full-size form of input transform {step.kind} in this benchmark")


def enlarged_branch(branch: LowRank, times: int) -> LowRank:
    """Enlarge a low-rank branch. Its rank grows with the width."""
    return LowRank(branch.up.repeat(times, times) / times, branch.down.repeat(times, times) / times)
