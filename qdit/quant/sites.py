"""Quantized modules that replace the sites of a model, and their description as plain JSON.

These modules simulate quantization. The weight is dequantized once, when the module is made. The input is quantized and
dequantized in every forward pass. Only packed codes, scales and zero points are state; the dequantized weight is
computed from them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.affine import pack_codes, unpack_codes
from qdit.core.errors import CheckpointError, Unsupported
from qdit.kernels.dense import DenseLinear
from qdit.kernels.fused import attention, modulated_norm
from qdit.models.dit import Attention, Mlp, ModulatedLayerNorm
from qdit.models.roles import Site, StepContext, replace
from qdit.quant.activation import Activation
from qdit.quant.activation_kinds import build_activation
from qdit.quant.weight import QuantizedWeight

M = TypeVar("M", bound=nn.Module)


def in_float32(activation: Activation, x: Tensor) -> Tensor:
    """Output of the quantizer for an input in any precision.

    An input in half precision is converted to float32 first, so that a code means the same value.
    """
    return activation(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)


class QuantizedLinear(nn.Module):
    """Linear whose weight, input or both are quantized; (…, in) → (…, out)."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    weight: Tensor
    bias: Tensor | None
    activation: Activation | None

    def __init__(self, *, weight: QuantizedWeight | Tensor, bias: Tensor | None, activation: Activation | None) -> None:
        super().__init__()
        self.weight_bits = 16
        if isinstance(weight, QuantizedWeight):
            self.weight_bits = weight.bits
            self.register_buffer("codes", pack_codes(weight.codes, weight.bits))
            self.register_buffer("scale", weight.scale)
            self.register_buffer("zero_point", weight.zero_point)
            self.register_buffer("weight", weight.dequantize(), persistent=False)
        else:
            self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.activation = activation
        self.dense: DenseLinear | None = None

    def spec(self) -> dict[str, Any]:
        """Shape, bits and quantizer kinds; with the state dict this is enough to build the module again."""
        activation = None if self.activation is None else self.activation.spec()
        return {
            "kind": "linear",
            "shape": list(self.weight.shape),
            "weight_bits": self.weight_bits,
            "groups": list(self.scale.shape) if self.weight_bits < 16 else None,
            "activation": activation,
        }

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.activation is None else in_float32(self.activation, x)
        return F.linear(x, self.weight, self.bias) if self.dense is None else self.dense(x)


class QuantizedConv(QuantizedLinear):
    """Convolution in two or three dimensions whose patches do not overlap (stride = kernel).

    Its weight is kept as (out, in · kernel cells); `kernel` has one size per dimension. A pointwise one computes as a
    linear over the channels, so its input quantizer may have a range for each cell or group of channels.
    """

    def __init__(
        self,
        *,
        weight: QuantizedWeight | Tensor,
        bias: Tensor | None,
        activation: Activation | None,
        kernel: Sequence[int],
    ) -> None:
        flat = weight if isinstance(weight, QuantizedWeight) else weight.flatten(1)
        super().__init__(weight=flat, bias=bias, activation=activation)
        self.kernel = tuple(kernel)

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), "kind": "conv", "kernel": list(self.kernel)}

    def forward(self, x: Tensor) -> Tensor:
        if set(self.kernel) == {1}:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)
        x = x if self.activation is None else in_float32(self.activation, x)
        weight = self.weight.unflatten(1, (-1, *self.kernel))
        convolution = F.conv2d if len(self.kernel) == 2 else F.conv3d
        return convolution(x, weight, self.bias, stride=self.kernel)


class QuantizedOperand(nn.Module):
    """Operand of a matrix product in attention (q, k, softmax output or v), quantized; (N, heads, T, d)."""

    weight_bits = 16

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def spec(self) -> dict[str, Any]:
        """The quantizer's kind."""
        return {"kind": "operand", "weight_bits": 16, "groups": None, "activation": self.activation.spec()}

    def forward(self, x: Tensor) -> Tensor:
        return in_float32(self.activation, x)


class FoldedLayerNorm(ModulatedLayerNorm):
    """Modulated LayerNorm whose output is divided by a factor and shifted, per channel (spec/methods.md §2.3).

    `inverse` and `offset` are (D,): LN(x)(1 + scale) · inverse + shift · inverse − offset. It costs a few operations on
    (N, D), and none on the tokens.
    """

    weight_bits = 16
    activation: Activation | None = None
    inverse: Tensor
    offset: Tensor

    def __init__(self, *, inverse: Tensor, offset: Tensor) -> None:
        super().__init__(inverse.numel())
        self.register_buffer("inverse", inverse)
        self.register_buffer("offset", offset)

    def spec(self) -> dict[str, Any]:
        """Its width."""
        return {
            "kind": "modulate",
            "weight_bits": 16,
            "groups": None,
            "activation": None,
            "shape": [self.hidden_size],
        }

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return super().forward(x, shift * self.inverse - self.offset, (1 + scale) * self.inverse - 1)


QuantizedSite = QuantizedLinear | QuantizedOperand | FoldedLayerNorm


def build_site(spec: Mapping[str, Any], tensors: Mapping[str, Tensor], context: StepContext) -> QuantizedSite:
    """Module of a spec and its state; raises CheckpointError if shapes and spec disagree."""
    prefix = "activation."
    of_activation = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    activation = build_activation(spec["activation"], of_activation, context)
    if spec["kind"] == "operand" and activation is not None:
        return QuantizedOperand(activation)
    if spec["kind"] == "modulate":
        return build_folded(spec, tensors)
    weight = build_weight(spec, tensors)
    bias = tensors["bias"].float() if "bias" in tensors else None
    if spec["kind"] == "conv":
        return QuantizedConv(weight=weight, bias=bias, activation=activation, kernel=spec["kernel"])
    if spec["kind"] == "linear":
        return QuantizedLinear(weight=weight, bias=bias, activation=activation)
    raise CheckpointError(f"site kind {spec['kind']!r}: allowed are linear, conv, operand, modulate")


def build_folded(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FoldedLayerNorm:
    """Build the modulate site of a LayerNorm with a folded factor and offset."""
    inverse, offset = tensors["inverse"].float(), tensors["offset"].float()
    if not list(inverse.shape) == list(offset.shape) == spec["shape"]:
        raise CheckpointError(f"factor has shape {list(inverse.shape)}, the configuration says {spec['shape']}")
    return FoldedLayerNorm(inverse=inverse, offset=offset)


def build_weight(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QuantizedWeight | Tensor:
    """The weight of a linear or convolution, quantized or not."""
    outputs, width = spec["shape"]
    shape = (int(outputs), int(width))
    if spec["weight_bits"] == 16:
        weight = tensors["weight"].float()
        if tuple(weight.shape) != shape:
            raise CheckpointError(f"weight has shape {tuple(weight.shape)}, the configuration says {shape}")
        return weight
    if list(tensors["scale"].shape) != spec["groups"]:
        raise CheckpointError(
            f"scale has shape {list(tensors['scale'].shape)}, the configuration says {spec['groups']}"
        )
    bits = spec["weight_bits"]
    codes = unpack_codes(tensors["codes"], bits, shape)
    return QuantizedWeight(codes, tensors["scale"], tensors["zero_point"], bits)


def quantize_site(
    model: nn.Module, site: Site, *, weight: QuantizedWeight | None = None, activation: Activation | None = None
) -> None:
    """Give a site a quantized weight, an input quantizer, or both. None leaves that part unchanged."""
    old = model.get_submodule(site.name)
    if site.kind == "operand":
        if activation is not None:
            replace(model, site, QuantizedOperand(activation))
        return
    if site.kind not in ("linear", "conv", "pointwise"):
        raise Unsupported(f"{site.name}: a site of kind {site.kind} has no weight or input that can be quantized")
    quantized = old if isinstance(old, QuantizedLinear) else None
    kept = cast(nn.Linear, old).weight if quantized is None else stored_weight(quantized)
    if activation is None and quantized is not None:
        activation = quantized.activation
    new_weight, bias = kept if weight is None else weight, cast(nn.Linear, old).bias
    if site.kind in ("conv", "pointwise"):
        kernel = old.kernel if isinstance(old, QuantizedConv) else cast(nn.Conv2d, old).kernel_size
        replace(model, site, QuantizedConv(weight=new_weight, bias=bias, activation=activation, kernel=kernel))
    else:
        replace(model, site, QuantizedLinear(weight=new_weight, bias=bias, activation=activation))


def activation_of(model: nn.Module, site: Site) -> Activation | None:
    """The input quantizer of a site. None if it has none."""
    module = model.get_submodule(site.name)
    return module.activation if isinstance(module, QuantizedSite) else None


def prepare_inference(model: M) -> M:
    """Pack the weights of all linears for fast inference, in place. After that the model cannot be changed or saved.

    The GELU of an MLP is computed together with the linear before it. A modulated LayerNorm is computed in one pass,
    and so is attention without quantized operands.
    """
    fused = set()
    for name, module in model.named_modules():
        if isinstance(module, ModulatedLayerNorm):
            module.fused = modulated_norm
        if isinstance(module, Attention):
            module.fused = attention
        if isinstance(module, Mlp):
            module.act = nn.Identity()
            fused.add(f"{name}.fc1")
    for name, module in list(model.named_modules()):
        if type(module) is QuantizedLinear:
            module.dense = DenseLinear(module.weight, module.bias, gelu=name in fused)
        elif type(module) is nn.Linear:
            replace(model, name, DenseLinear(module.weight, module.bias, gelu=name in fused))
    return model


def stored_weight(module: QuantizedLinear) -> QuantizedWeight | Tensor:
    """The stored form of a weight: codes with their scales, or floating point."""
    if module.weight_bits == 16:
        return module.weight
    codes = unpack_codes(module.codes, module.weight_bits, (module.weight.shape[0], module.weight.shape[1]))
    return QuantizedWeight(codes, module.scale, module.zero_point, module.weight_bits)
