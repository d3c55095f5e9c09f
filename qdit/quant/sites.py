"""Quantized modules that take the place of a model's sites, and their description as plain JSON.

Simulated mode: the weight is dequantized once when the module is made, the input is quantized and dequantized on
the fly. Only the packed codes, scales and zero points are state; the dequantized weight is derived.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qdit.affine import pack_codes, unpack_codes
from qdit.errors import CheckpointError
from qdit.kernels.dense import DenseLinear
from qdit.models.dit import DiT, Mlp
from qdit.models.roles import Site, linear_of, replace
from qdit.quant.activation import Activation, build_activation
from qdit.quant.weight import QuantizedWeight

WEIGHT_TENSORS = ("codes", "scale", "zero_point")


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
        x = x if self.activation is None else self.activation(x)
        return F.linear(x, self.weight, self.bias) if self.dense is None else self.dense(x)


def build_linear(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> QuantizedLinear:
    """Module of a spec and its state; raises CheckpointError if shapes and spec disagree."""
    outputs, width = spec["shape"]
    shape = (int(outputs), int(width))
    weight: QuantizedWeight | Tensor
    if spec["weight_bits"] == 16:
        weight = tensors["weight"].float()
        if tuple(weight.shape) != shape:
            raise CheckpointError(f"weight has shape {tuple(weight.shape)}, the configuration says {shape}")
    else:
        if list(tensors["scale"].shape) != spec["groups"]:
            raise CheckpointError(
                f"scale has shape {list(tensors['scale'].shape)}, the configuration says {spec['groups']}"
            )
        bits = spec["weight_bits"]
        codes = unpack_codes(tensors["codes"], bits, shape)
        weight = QuantizedWeight(codes, tensors["scale"], tensors["zero_point"], bits)
    own = {name.removeprefix("activation."): t for name, t in tensors.items() if name.startswith("activation.")}
    bias = tensors["bias"].float() if "bias" in tensors else None
    return QuantizedLinear(weight=weight, bias=bias, activation=build_activation(spec["activation"], own))


def quantize_site(
    model: nn.Module, site: Site, *, weight: QuantizedWeight | None = None, activation: Activation | None = None
) -> None:
    """Give a linear site a quantized weight, an input quantizer, or both; what is None stays as it was."""
    old = linear_of(model, site)
    quantized = old if isinstance(old, QuantizedLinear) else None
    kept = old.weight if quantized is None else stored_weight(quantized)
    kept_activation = None if quantized is None else quantized.activation
    module = QuantizedLinear(
        weight=kept if weight is None else weight,
        bias=old.bias,
        activation=kept_activation if activation is None else activation,
    )
    replace(model, site, module)


def prepare_inference(model: DiT) -> DiT:
    """Pack the weights of all linears for fast inference, in place; the model can no longer be changed or saved.

    The GELU of an MLP is computed together with the linear before it.
    """
    fused = set()
    for name, module in model.named_modules():
        if isinstance(module, Mlp):
            module.act = nn.Identity()
            fused.add(f"{name}.fc1")
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            module.dense = DenseLinear(module.weight, module.bias, gelu=name in fused)
        elif type(module) is nn.Linear:
            replace(model, name, DenseLinear(module.weight, module.bias, gelu=name in fused))
    return model


def stored_weight(module: QuantizedLinear) -> QuantizedWeight | Tensor:
    """The weight as it is stored: codes with their scales, or floating point."""
    if module.weight_bits == 16:
        return module.weight
    codes = unpack_codes(module.codes, module.weight_bits, (module.weight.shape[0], module.weight.shape[1]))
    return QuantizedWeight(codes, module.scale, module.zero_point, module.weight_bits)
