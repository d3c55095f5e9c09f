"""Quantized modules of a checkpoint, built from their spec and tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qdit.core.errors import CheckpointError
from qdit.models.roles import StepContext
from qdit.quant import grid_weights
from qdit.quant.activation import ACTIVATIONS, Activation
from qdit.quant.activation_kinds import build_activation
from qdit.quant.low_rank import LowRank
from qdit.quant.sites import FoldedLayerNorm, QuantizedConv, QuantizedLinear, QuantizedOperand, QuantizedSite
from qdit.quant.transforms import TRANSFORMS, build_chain
from qdit.quant.weight import QuantizedWeight
from qdit.quant.weight_kinds import WEIGHTS, StoredWeight

MODULES = (grid_weights,)
"""Modules whose import registers their kinds."""
REGISTRIES = {"activation": ACTIVATIONS, "weight": WEIGHTS, "transform": TRANSFORMS}
"""Part of a site → the kinds it can have."""


def build_site(spec: Mapping[str, Any], tensors: Mapping[str, Tensor], context: StepContext) -> QuantizedSite:
    """Build the quantized module of one site from its spec and tensors; CheckpointError if shapes and spec disagree."""
    activation = build_activation(spec["activation"], part_of(tensors, "activation"), context)
    if spec["kind"] == "operand" and activation is not None:
        return QuantizedOperand(activation)
    if spec["kind"] == "modulate":
        return build_folded(spec, tensors)
    weight = build_weight(spec, tensors)
    bias = tensors["bias"].float() if "bias" in tensors else None
    if spec["kind"] in ("linear", "conv"):
        return build_linear(spec, tensors, weight=weight, bias=bias, activation=activation)
    raise CheckpointError(f"site kind {spec['kind']!r}: allowed are linear, conv, operand, modulate")


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of a submodule, without the submodule's name in front of theirs."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def build_linear(
    spec: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    weight: StoredWeight | Tensor,
    bias: Tensor | None,
    activation: Activation | None,
) -> QuantizedLinear:
    """Build a linear or a convolution with its transform and its branch, if the spec has them."""
    outputs, width = map(int, spec["shape"])
    transform, branch = spec.get("transform"), spec.get("low_rank")
    parts: dict[str, Any] = {
        "weight": weight,
        "bias": bias,
        "activation": activation,
        "transform": None if transform is None else build_chain(transform, part_of(tensors, "transform"), width),
        "low_rank": None if branch is None else LowRank.build(branch, part_of(tensors, "low_rank"), (outputs, width)),
    }
    is_conv = spec["kind"] == "conv"
    linear = QuantizedConv(kernel=spec["kernel"], **parts) if is_conv else QuantizedLinear(**parts)
    if linear.extra_bytes() != spec.get("extra_bytes", {}):
        raise CheckpointError(
            f"its parts take {linear.extra_bytes()} bytes, the configuration says {spec.get('extra_bytes')}; quantize"
            " again"
        )
    return linear


def build_folded(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FoldedLayerNorm:
    """Build the modulated LayerNorm that has absorbed a folded factor and offset."""
    inverse, offset = tensors["inverse"].float(), tensors["offset"].float()
    if not list(inverse.shape) == list(offset.shape) == spec["shape"]:
        raise CheckpointError(f"factor has shape {list(inverse.shape)}, the configuration says {spec['shape']}")
    return FoldedLayerNorm(inverse=inverse, offset=offset)


def build_weight(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StoredWeight | Tensor:
    """Build the weight of a linear or convolution, quantized or not."""
    outputs, width = spec["shape"]
    shape = (int(outputs), int(width))
    if spec.get("weight") is not None:
        weight: StoredWeight = WEIGHTS.find(spec["weight"].get("kind")).build(spec["weight"], tensors, shape)
        if weight.bits != spec["weight_bits"]:
            raise CheckpointError(
                f"its codes have {weight.bits} bits, the configuration says {spec['weight_bits']}; quantize again"
            )
        return weight
    if spec["weight_bits"] == 16:
        plain = tensors["weight"].float()
        if tuple(plain.shape) != shape:
            raise CheckpointError(f"weight has shape {tuple(plain.shape)}, the configuration says {shape}")
        return plain
    return QuantizedWeight.build(spec, tensors, shape)
