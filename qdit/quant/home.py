"""Layers of a quantized transformer inside its own program: packed in memory, in any precision, without graph breaks.

A transformer of diffusers computes in float32, float16 or bfloat16. Each layer here takes inputs in any of them and
gives outputs in the same. The weight stays packed. A call dequantizes it in float32 and rounds it once to the precision
of the input. The input is quantized in float32 (see `in_float32`) and rounded to its precision again.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.devices import device_after
from qdit.core.errors import CheckpointError, Unsupported
from qdit.kernels import ops  # noqa: F401 - registers the operations that `compilable` names
from qdit.models.config import DiffusersConfig
from qdit.models.generic.network import DiffusersNetwork
from qdit.quant.activation import DynamicActivation, StaticActivation, in_float32
from qdit.quant.checkpoint import fill
from qdit.quant.folder import FORMAT, require_unedited
from qdit.quant.packed import PackedConv, PackedLinear
from qdit.quant.sites import QuantizedConv, QuantizedLinear, QuantizedSite

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What such a transformer computes in."""


class InAnyPrecision(QuantizedLinear):
    """A quantized linear that computes in the precision of its input. A cast of the model changes no code or scale."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InAnyPrecision":
        """Move all tensors to the device that `fn` moves them to. Their types stay."""
        some = next(self.buffers())
        device = device_after(fn, some)
        super()._apply(lambda tensor: tensor.to(device), recurse)
        return self

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input after its quantizer, in the precision of the input."""
        if self.activation is None:
            return x
        if torch.compiler.is_compiling():
            return in_float32(cast(Any, compilable(self.activation)), x).to(x.dtype)
        return in_float32(self.activation, x).to(x.dtype)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the precision of the input."""
        return self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.transform is None else self.transform(x.float()).to(x.dtype)
        y = F.linear(self.quantized_input(x), *self.weights(x))
        return y if self.low_rank is None else y + self.low_rank(x)


class ConvInAnyPrecision(InAnyPrecision, QuantizedConv):
    """The same for a convolution whose patches do not overlap."""

    def forward(self, x: Tensor) -> Tensor:
        if set(self.kernel) == {1}:
            return InAnyPrecision.forward(self, x.movedim(1, -1)).movedim(-1, 1)
        weight, bias = self.weights(x)
        convolution = F.conv2d if len(self.kernel) == 2 else F.conv3d
        cells = weight.unflatten(1, (-1, *self.kernel))
        return convolution(self.quantized_input(x), cells, bias, stride=self.kernel)


class HomeLinear(InAnyPrecision, PackedLinear):
    """A linear whose weight stays packed."""


class HomeConv(ConvInAnyPrecision, PackedConv):
    """A convolution whose weight stays packed."""

    def __init__(self, module: QuantizedConv) -> None:
        PackedConv.__init__(self, module)

    spec = QuantizedConv.spec


def at_home(module: QuantizedSite) -> nn.Module:
    """A quantized module as it is inside the transformer's own program."""
    if not isinstance(module, QuantizedLinear):
        return module
    is_conv = isinstance(module, QuantizedConv)
    if module.weight_bits < 16:
        return HomeConv(cast(QuantizedConv, module)) if is_conv else HomeLinear(module)
    module.__class__ = ConvInAnyPrecision if is_conv else InAnyPrecision
    return module


def compilable(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """An input quantizer without graph breaks: an operation that torch.compile knows, where there is one."""
    if type(activation) is DynamicActivation and activation.sharing == "token" and activation.include_zero:
        bits, symmetric, group_size = activation.bits, activation.symmetric, activation.group_size
        return lambda x: torch.ops.qdit.fake_quantize_groups(x, group_size or x.shape[-1], bits, symmetric)
    if type(activation) is StaticActivation and activation.per == "group":
        scale, zero_point, levels = activation.scale, activation.zero_point, activation.bits
        return lambda x: torch.ops.qdit.fake_quantize_static(x, scale, zero_point, levels)
    return activation


def fill_at_home(
    transformer: nn.Module,
    checkpoint: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    in_full: Collection[str] = (),
) -> None:
    """Put the layers and tensors of a checkpoint into an empty transformer.

    Tensors that are not quantized become `dtype`. Those with a part of their path in `in_full` stay float32. Raises
    CheckpointError for a configuration that was edited, is of another class, or does not fit the tensors.
    """
    require_format(checkpoint)
    try:
        require_home(checkpoint, type(transformer).__name__, dict(cast(Any, transformer).config))
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
    """Put the layers of a checkpoint and its tensors into a network, in the types of `fill_at_home`."""
    sites = checkpoint["sites"]

    def is_exact(name: str) -> bool:
        """Whether a tensor belongs to what a site stores beside a float weight and the bias."""
        site, _, part = name.rpartition(".")
        return not (site in sites and part in ("weight", "bias")) and any(name.startswith(f"{s}.") for s in sites)

    def stored_as(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or is_exact(name) or not set(name.split(".")).isdisjoint(in_full):
            return tensor
        return tensor.to(dtype)

    method = checkpoint["record"].get("method")
    fill(network, sites, tensors, method=method, module_of=lambda _, module: at_home(module), stored_as=stored_as)
    network.requires_grad_(False)


def require_home(checkpoint: Mapping[str, Any], class_name: str, values: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a checkpoint is of this class and these values of its configuration."""
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
    """A value as a JSON file holds it: tuples are lists there."""
    return json.dumps(value, sort_keys=True, default=str)


def require_format(checkpoint: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless this version wrote the configuration, and nobody edited it."""
    if checkpoint.get("format") != FORMAT:
        raise CheckpointError(
            f"exported checkpoint has format {checkpoint.get('format')!r}, this version reads {FORMAT}; export it again"
        )
    require_unedited(checkpoint, where="exported checkpoint", remedy="export it again")


def disagreement(problem: Exception) -> CheckpointError:
    """One line about a configuration and tensors that do not fit."""
    text = " ".join(str(problem).split())[:300]
    return CheckpointError(f"exported checkpoint: configuration and tensors disagree ({text}); export it again")


def is_generic(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a transformer that is no DiT of this suite."""
    model = checkpoint.get("model")
    return isinstance(model, Mapping) and model.get("family") == DiffusersConfig.family


def refuse_adapter(*_args: Any, **_options: Any) -> None:
    """Raise Unsupported. It stands in the place of the methods that put a LoRA on a transformer."""
    raise Unsupported(
        "LoRA on a quantized transformer: packed weights take no adapter; fuse the LoRA into the full-precision weights"
        " (fuse_lora, then save_pretrained) and quantize those"
    )
