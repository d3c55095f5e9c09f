"""Quantized layers that replace the layers of a diffusers transformer when its own class loads a checkpoint.

A transformer of diffusers computes in float32, float16 or bfloat16. Each layer here takes inputs in one of these types
and gives outputs in the same type. The weight stays packed in memory. A call dequantizes it in float32 and rounds it
once to the type of the input. The input is quantized in float32 and rounded to its type again, on a GPU in one pass.
torch.compile finds no graph break in these layers.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.devices import device_after
from qdit.core.errors import CheckpointError, Unsupported
from qdit.models.config import DiffusersConfig
from qdit.models.generic.network import DiffusersNetwork
from qdit.quant.activation import Activation, traced
from qdit.quant.checkpoint import fill
from qdit.quant.folder import FORMAT, require_unedited
from qdit.quant.packed import PackedConv, PackedLinear
from qdit.quant.sites import QuantizedConv, QuantizedLinear, QuantizedSite

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types in which a transformer of diffusers may compute."""


class InAnyPrecision(QuantizedLinear):
    """Base of quantized layers that compute in their input's type. A cast of the model keeps codes and scales."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InAnyPrecision":
        """Move all tensors to the device to which `fn` moves a tensor. Their types do not change."""
        some = next(self.buffers())
        device = device_after(fn, some)
        super()._apply(lambda tensor: tensor.to(device), recurse)
        return self

    def quantized_input(self, x: Tensor) -> Tensor:
        """Transform and quantize the input, and return it in its own type."""
        if self.activation is None:
            return x
        if torch.compiler.is_compiling():
            return traced(self.activation, x, x.dtype)
        return narrow(self.activation, x)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the dequantized weight and the bias in the type of the input."""
        return self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x if self.transform is None else self.transform(x.float()).to(x.dtype)
        y = F.linear(self.quantized_input(x), *self.weights(x))
        return y if self.low_rank is None else y + self.low_rank(x)


class ConvInAnyPrecision(InAnyPrecision, QuantizedConv):
    """Base of quantized convolutions, with patches that do not overlap, that compute in the type of their input."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if set(self.kernel) == {1}:
            return InAnyPrecision.forward(self, x.movedim(1, -1)).movedim(-1, 1)
        weight, bias = self.weights(x)
        convolution = F.conv2d if len(self.kernel) == 2 else F.conv3d
        cells = weight.unflatten(1, (-1, *self.kernel))
        return convolution(self.quantized_input(x), cells, bias, stride=self.kernel)


class DiffusersLinear(InAnyPrecision, PackedLinear):
    """A quantized linear of a diffusers transformer; its weight stays packed in memory."""


class DiffusersConv(ConvInAnyPrecision, PackedConv):
    """A quantized convolution of a diffusers transformer; its weight stays packed in memory."""

    def __init__(self, module: QuantizedConv) -> None:
        PackedConv.__init__(self, module)

    spec = QuantizedConv.spec


def diffusers_module(module: QuantizedSite) -> nn.Module:
    """Return the layer of this file that replaces a quantized module of our own networks."""
    if not isinstance(module, QuantizedLinear):
        return module
    is_conv = isinstance(module, QuantizedConv)
    if module.weight_bits < 16:
        return DiffusersConv(cast(QuantizedConv, module)) if is_conv else DiffusersLinear(module)
    module.__class__ = ConvInAnyPrecision if is_conv else InAnyPrecision
    return module


def narrow(activation: Activation, x: Tensor) -> Tensor:
    """Quantize and dequantize x in float32, and round the result to the type of x."""
    return activation.narrowed(x, x.dtype) if x.dtype in DTYPES else activation(x)


def fill_transformer(
    transformer: nn.Module,
    checkpoint: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    in_full: Collection[str] = (),
) -> None:
    """Put the layers and tensors of a checkpoint into an empty transformer.

    Tensors that are not quantized get the type `dtype`. Tensors stay float32 if a component of their dotted name is in
    `in_full`. Raises CheckpointError for a configuration that was edited, is of another class, or does not fit the
    tensors.
    """
    require_format(checkpoint)
    try:
        require_same_model(checkpoint, type(transformer).__name__, dict(cast(Any, transformer).config))
        fill_network(DiffusersNetwork(transformer), checkpoint, tensors, dtype=dtype, in_full=in_full)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        raise disagreement(problem) from None


def fill_network(
    network: DiffusersNetwork,
    checkpoint: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    in_full: Collection[str],
) -> None:
    """Put the layers and tensors of a checkpoint into a network; `dtype` and `in_full` as in `fill_transformer`."""
    sites = checkpoint["sites"]

    def is_exact(name: str) -> bool:
        """Whether a tensor keeps its type: all tensors of a site do, except its floating-point weight and its bias."""
        site, _, kind = name.rpartition(".")
        return not (site in sites and kind in ("weight", "bias")) and any(name.startswith(f"{s}.") for s in sites)

    def stored_as(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or is_exact(name) or not set(name.split(".")).isdisjoint(in_full):
            return tensor
        return tensor.to(dtype)

    method = checkpoint["record"].get("method")
    fill(network, sites, tensors, method=method, module_of=lambda _, m: diffusers_module(m), stored_as=stored_as)
    network.requires_grad_(False)


def require_same_model(checkpoint: Mapping[str, Any], class_name: str, values: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a checkpoint was made of this class with this configuration."""
    model = checkpoint["model"]["config"]
    if model["class_name"] != class_name:
        raise CheckpointError(
            f"quantized checkpoint of a {model['class_name']}, loaded as a {class_name}; call"
            f" {model['class_name']}.from_pretrained"
        )
    for name, value in model["values"].items():
        stored = values.get(name)
        if as_json(stored) != as_json(value):
            raise CheckpointError(
                f"quantized checkpoint: config.json says {name} {stored!r:.80}, its tensors are of {name}"
                f" {value!r:.80}; quantize again"
            )


def as_json(value: Any) -> str:
    """Write a value as JSON text, to compare values as a JSON file would hold them (a tuple equals a list)."""
    return json.dumps(value, sort_keys=True, default=str)


def require_format(checkpoint: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless this version can read the configuration and the digest in it is correct."""
    if checkpoint.get("format") != FORMAT:
        raise CheckpointError(
            f"exported checkpoint has format {checkpoint.get('format')!r}, this version reads {FORMAT}; export it again"
        )
    require_unedited(checkpoint, where="exported checkpoint", remedy="export it again")


def disagreement(problem: Exception) -> CheckpointError:
    """Return the CheckpointError for a configuration that does not fit the tensors."""
    text = " ".join(str(problem).split())[:300]
    return CheckpointError(f"exported checkpoint: configuration and tensors disagree ({text}); export it again")


def is_generic(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a configuration describes a diffusers transformer that the suite does not convert to its own DiT."""
    model = checkpoint.get("model")
    return isinstance(model, Mapping) and model.get("family") == DiffusersConfig.family


def refuse_adapter(*_args: Any, **_options: Any) -> None:
    """Raise Unsupported. This function replaces the transformer's methods that would add a LoRA."""
    raise Unsupported(
        "LoRA on a quantized transformer: packed weights take no adapter; fuse the LoRA into the full-precision weights"
        " (fuse_lora, then save_pretrained) and quantize those"
    )
