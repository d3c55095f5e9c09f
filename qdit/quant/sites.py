"""Quantized modules that replace the sites of a model, and their description as plain JSON.

These modules simulate quantization. The weight is dequantized once, when the module is made. The input is quantized and
dequantized in every forward pass. Only the tensors of the stored form are state (packed codes, scales, zero points).
The dequantized weight is computed from them. `qdit.quant.site_building` makes the modules again from a checkpoint.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.errors import ConfigError, Unsupported
from qdit.kernels.dense import DenseLinear
from qdit.kernels.fused import attention, modulated_norm
from qdit.kernels.inputs import LateInput
from qdit.kernels.late import gelu, values_of
from qdit.models.dit import Attention, Mlp, ModulatedLayerNorm
from qdit.models.roles import Site, matrix_of, replace
from qdit.quant.activation import Activation, in_float32, input_of_product
from qdit.quant.compact import stored_bytes
from qdit.quant.late_inputs import defer
from qdit.quant.low_rank import LowRank, low_rank, residual
from qdit.quant.transforms import Chain, Transform
from qdit.quant.weight_kinds import UNIFORM, StoredWeight

M = TypeVar("M", bound=nn.Module)

RESERVED = {"weight", "bias", "activation", "transform", "low_rank"}
"""Names in a site's state that a weight kind must not use."""


class QuantizedLinear(nn.Module):
    """Linear whose weight, input or both are quantized; (…, in) → (…, out).

    y = Ŵ Q(T x) + branch(T x) + bias. The input transform T and the low-rank branch are optional. `weight` is Ŵ, which
    belongs to T x and does not contain the branch. x can be a LayerNorm or a GELU that is not computed yet
    (`qdit.quant.late_inputs`); with `late` the next layer computes the GELU after this linear.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    weight: Tensor
    bias: Tensor | None
    activation: Activation | None
    transform: Chain | None
    low_rank: LowRank | None
    stored_form: type[StoredWeight] | None = None
    """Class of the stored weight; None for a weight in floating point."""
    late = False

    def __init__(
        self,
        *,
        weight: StoredWeight | Tensor,
        bias: Tensor | None,
        activation: Activation | None,
        transform: Chain | None = None,
        low_rank: LowRank | None = None,
    ) -> None:
        super().__init__()
        self.weight_bits, self.gelu = 16, False
        if isinstance(weight, StoredWeight):
            self.weight_bits = weight.bits
            self.stored_form, self.stored_facts = type(weight), weight.facts()
            tensors = weight.tensors()
            if reserved := RESERVED & tensors.keys():
                raise ConfigError(f"weight kind {weight.kind!r}: sites use the name {min(reserved)} of its tensor")
            for name, tensor in tensors.items():
                # A copy, since sites may not share tensors in a file: a table can belong to several weights.
                self.register_buffer(name, tensor.clone(memory_format=torch.contiguous_format))
            self.stored_names = tuple(tensors)
            self.register_buffer("weight", weight.dequantize().contiguous(), persistent=False)
        else:
            self.register_buffer("weight", weight.detach().clone(memory_format=torch.contiguous_format))
        self.shape = (self.weight.shape[0], self.weight.shape[1])
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.activation, self.transform, self.low_rank = activation, transform, low_rank
        self.dense: DenseLinear | None = None

    def spec(self) -> dict[str, Any]:
        """Shape, bits and kinds as JSON. With the state dict this is enough to build the module again."""
        is_uniform = self.stored_form is not None and self.stored_form.kind == UNIFORM
        spec = {
            "kind": "linear",
            "shape": list(self.shape),
            "weight_bits": self.weight_bits,
            "groups": self.stored_facts["groups"] if is_uniform else None,
            "activation": None if self.activation is None else self.activation.spec(),
        }
        if self.stored_form is not None and not is_uniform:
            spec["weight"] = {"kind": self.stored_form.kind, **self.stored_facts}
        if self.transform is not None:
            spec["transform"] = self.transform.spec()
        if self.low_rank is not None:
            spec["low_rank"] = self.low_rank.spec()
        extra = self.extra_bytes()
        return spec | ({"extra_bytes": extra} if extra else {})

    def extra_bytes(self) -> dict[str, int]:
        """Bytes in the file of `weight` (without codes; not if uniform), `transform` and `low_rank`, by these names."""
        extra = {}
        if self.stored_form is not None and self.stored_form.kind != UNIFORM:
            beside = [getattr(self, name) for name in self.stored_names if name != "codes"]
            extra["weight"] = sum(map(stored_bytes, beside))
        for name in ("transform", "low_rank"):
            if (part := getattr(self, name)) is not None:
                extra[name] = sum(map(stored_bytes, part.state_dict().values()))
        return {part: count for part, count in extra.items() if count}

    def entered(self, x: Tensor) -> Tensor:
        """Return T x, the input of the activation quantizer and of the branch. Without a transform it is x itself."""
        return x if self.transform is None else self.transform(x)

    @property
    def takes_late(self) -> bool:
        """Whether the input may be a LayerNorm or GELU that is not computed yet."""
        return self.activation is not None

    def forward(self, x: Tensor | LateInput) -> Tensor | LateInput:
        if self.activation is None or self.transform is not None or self.low_rank is not None:
            x = self.entered(values_of(x))
        rounded = cast(Tensor, x) if self.activation is None else input_of_product(self.activation, x)
        y = F.linear(rounded, self.weight, self.bias) if self.dense is None else self.dense(rounded)
        y = y if self.low_rank is None else y + self.low_rank(cast(Tensor, x))
        return gelu(y, late=self.late) if self.gelu else y


class QuantizedConv(QuantizedLinear):
    """Convolution in two or three dimensions whose patches do not overlap (stride = kernel).

    Its weight is kept as (out, in · kernel cells); `kernel` has one size per dimension. A pointwise convolution
    computes as a linear over the channels. So its input quantizer may have a range for each cell or group of channels,
    and it may have an input transform and a low-rank branch.
    """

    def __init__(
        self,
        *,
        weight: StoredWeight | Tensor,
        bias: Tensor | None,
        activation: Activation | None,
        kernel: Sequence[int],
        transform: Chain | None = None,
        low_rank: LowRank | None = None,
    ) -> None:
        flat = weight if isinstance(weight, StoredWeight) else weight.flatten(1)
        super().__init__(weight=flat, bias=bias, activation=activation, transform=transform, low_rank=low_rank)
        self.kernel = tuple(kernel)

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), "kind": "conv", "kernel": list(self.kernel)}

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        if set(self.kernel) == {1}:
            return cast(Tensor, super().forward(x.movedim(1, -1))).movedim(-1, 1)
        x = x if self.activation is None else input_of_product(self.activation, x)
        weight = self.weight.unflatten(1, (-1, *self.kernel))
        convolution = F.conv2d if len(self.kernel) == 2 else F.conv3d
        return convolution(x, weight, self.bias, stride=self.kernel)


class QuantizedOperand(nn.Module):
    """Quantized operand of a matrix product in attention (q, k, softmax output or v): (N, heads, T, d).

    With `narrow` no step comes between the quantizer and the product (k, softmax output and v). Then a quantizer under
    autocast on a GPU writes half precision, as that of a linear does.
    """

    weight_bits = 16
    narrow = False

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def spec(self) -> dict[str, Any]:
        """The quantizer's kind, as JSON."""
        return {"kind": "operand", "weight_bits": 16, "groups": None, "activation": self.activation.spec()}

    def forward(self, x: Tensor) -> Tensor:
        return input_of_product(self.activation, x) if self.narrow else in_float32(self.activation, x)


class FoldedLayerNorm(ModulatedLayerNorm):
    """Modulated LayerNorm that absorbs a channel factor and an offset (RepQ-ViT): its output is divided and shifted.

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
        """The number of channels, as JSON."""
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


def quantize_site(
    model: nn.Module,
    site: Site,
    *,
    weight: StoredWeight | None = None,
    activation: Activation | None = None,
    low_rank: LowRank | None = None,
) -> None:
    """Give a site a quantized weight, an input quantizer, a low-rank branch, or several. None leaves one unchanged.

    A new branch takes its product out of the site's floating-point weight. If `weight` is given too, it is the
    quantized residual. ConfigError for a branch without `weight` at a site whose weight is quantized.
    """
    if site.kind == "operand":
        if activation is not None:
            replace(model, site, QuantizedOperand(activation))
        return
    if site.kind not in ("linear", "conv", "pointwise"):
        raise Unsupported(f"{site.name}: a site of kind {site.kind} has no weight or input that can be quantized")
    old = model.get_submodule(site.name)
    module = old if isinstance(old, QuantizedLinear) else None
    kept = cast(nn.Linear, old).weight if module is None else stored_weight(module)
    transform = None if module is None else module.transform
    branch = None if module is None else module.low_rank
    activation = module.activation if activation is None and module is not None else activation
    if low_rank is not None:
        if site.kind == "conv":
            raise Unsupported(f"{site.name}: a convolution holds no low-rank branch; give it to linears only")
        if weight is None:
            kept = residual(kept, branch, low_rank, site)
        branch = low_rank
    new_weight, bias = kept if weight is None else weight, cast(nn.Linear, old).bias
    put(model, site, weight=new_weight, bias=bias, activation=activation, transform=transform, low_rank=branch)


def put(model: nn.Module, site: Site, **parts: Any) -> None:
    """Put a quantized linear or convolution, built from `parts`, in the place of a site."""
    old = model.get_submodule(site.name)
    if site.kind in ("conv", "pointwise"):
        parts["kernel"] = old.kernel if isinstance(old, QuantizedConv) else cast(nn.Conv2d, old).kernel_size
    module = QuantizedConv(**parts) if "kernel" in parts else QuantizedLinear(**parts)
    replace(model, site, module.train(old.training))


def transform_site(model: nn.Module, site: Site, transform: Transform | Sequence[Transform]) -> None:
    """Put an input transform before a linear site, in place. The model computes the same function.

    The weight becomes W T⁻¹, and the bias takes an offset. A site that has a transform gets the new one behind it.
    ConfigError if the weight is quantized, or the site has a branch or an input quantizer already: these belong to the
    transformed input and come after. Unsupported for sites other than linears and pointwise convolutions.
    """
    if site.kind not in ("linear", "pointwise"):
        raise Unsupported(f"{site.name}: a site of kind {site.kind} has no input transform; only linears have one")
    old = model.get_submodule(site.name)
    module = old if isinstance(old, QuantizedLinear) else None
    if module is not None and (module.weight_bits < 16 or module.activation is not None or module.low_rank is not None):
        raise ConfigError(
            f"{site.name}: is quantized already; put the transform in before weight, branch and quantizer"
        )
    new = [transform] if isinstance(transform, Transform) else list(transform)
    linear = cast(nn.Linear, old)
    device, width = linear.weight.device, linear.weight.shape[1]
    chain = Chain(deepcopy(new)).to(device)  # sites may not share tensors in a file
    if chain.width != width:
        raise ConfigError(f"{site.name}: a transform of width {chain.width} before a linear with {width} inputs")
    matrix = linear.weight.detach().flatten(1)
    weight, bias = chain.absorb(matrix, None if linear.bias is None else linear.bias.detach())
    before = [] if module is None or module.transform is None else list(module.transform.steps())
    whole = Chain([*before, *chain.steps()])
    put(model, site, weight=weight, bias=bias, activation=None, transform=whole)


def split_low_rank(model: nn.Module, site: Site, rank: int) -> LowRank:
    """Divide the floating-point weight of a linear site into a branch of this rank and a residual, in place.

    The branch holds the largest singular values of the weight (`low_rank`). It becomes a part of the site, and is
    returned. The site's weight becomes the residual, which is not quantized yet: the caller quantizes it.
    """
    branch = low_rank(matrix_of(model, site), rank)
    quantize_site(model, site, low_rank=branch)
    return branch


def activation_of(model: nn.Module, site: Site) -> Activation | None:
    """Return the input quantizer of a site. None if it has none."""
    module = model.get_submodule(site.name)
    return module.activation if isinstance(module, QuantizedSite) else None


def prepare_inference(model: M, *, late: bool = True) -> M:
    """Pack the weights of all linears for fast inference, in place. After that the model cannot be changed or saved.

    The GELU of an MLP is computed together with the linear before it. A modulated LayerNorm is computed in one pass,
    and so is attention without quantized operands. With `late`, a quantizer on a GPU computes the LayerNorm or the GELU
    before it in its own pass.
    """
    fused = set()
    for name, module in model.named_modules():
        if isinstance(module, ModulatedLayerNorm):
            module.fused = modulated_norm
        if isinstance(module, Attention):
            module.fused = attention
        if isinstance(module, QuantizedOperand):
            module.narrow = name.rpartition(".")[2] in ("k", "p", "v")
        if isinstance(module, Mlp) and takes_gelu(module.fc1):
            module.act = nn.Identity()
            fused.add(f"{name}.fc1")
    for name, module in list(model.named_modules()):
        if type(module) is QuantizedLinear:
            # The GELU comes after the branch, which is added to the product.
            module.gelu = name in fused and module.low_rank is not None
            module.dense = DenseLinear(module.weight, module.bias, gelu=name in fused and not module.gelu)
        elif type(module) is nn.Linear:
            replace(model, name, DenseLinear(module.weight, module.bias, gelu=name in fused))
    return defer(model) if late else model


def takes_gelu(linear: nn.Module) -> bool:
    """Whether a linear can compute the GELU after it too, or already does."""
    return type(linear) in (QuantizedLinear, nn.Linear) or bool(getattr(linear, "gelu", False))


def stored_weight(module: QuantizedLinear) -> StoredWeight | Tensor:
    """Return the stored form of a weight: codes with their scales, or floating point."""
    if module.stored_form is None:
        return module.weight
    tensors = {name: getattr(module, name) for name in module.stored_names}
    return module.stored_form.build(module.stored_facts, tensors, module.shape)
