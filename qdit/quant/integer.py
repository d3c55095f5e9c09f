"""Integer mode: linears that multiply integer codes of weights and inputs, made from the linears of simulated mode.

Weights need an affine quantizer (scale and zero point) per tensor, channel or group. Inputs need static ranges (per
tensor or group of channels) or dynamic ranges (per token, or per token and group). For other quantizers `Unsupported`
is raised with the name of the layer.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from qdit.core.devices import device_after
from qdit.core.errors import Unsupported
from qdit.kernels import dense, flags, library, ops
from qdit.kernels.building import SOURCES
from qdit.kernels.dispatch import grouped_linear
from qdit.kernels.inputs import LateInput
from qdit.kernels.late import gelu as gelu_of
from qdit.kernels.late import values_of
from qdit.kernels.packing import CHUNK, pack_weight
from qdit.kernels.parts import Parts, Step, channel_step, hadamard_step, make_branch
from qdit.kernels.reference import check_static
from qdit.models.dit import Mlp
from qdit.models.roles import replace
from qdit.quant.activation import DynamicActivation, StaticActivation
from qdit.quant.low_rank import LowRank
from qdit.quant.sites import QuantizedConv, QuantizedLinear, QuantizedOperand, prepare_inference, stored_weight
from qdit.quant.transforms import Chain, Divide, Hadamard, Shift, Transform
from qdit.quant.weight import QuantizedWeight
from qdit.quant.weight_kinds import StoredWeight

M = TypeVar("M", bound=nn.Module)

USE_SIMULATED = "use the simulated mode"


class IntegerLinear(nn.Module):
    """Linear with packed integer weights, for inference only: (…, in) → (…, out), in the type of the input.

    Under autocast the output has autocast's type. With `gelu` the tanh-GELU follows; with `late` too, the next layer
    computes this GELU where a kernel does so. The kernel computes the input transform before it quantizes, and the
    low-rank branch before the product is added. A transform that the kernel cannot compute (an orthogonal matrix, a
    transform of a method's own) is computed in torch before the call. An input that is not computed yet
    (`qdit.kernels.inputs`) is computed in the pass that quantizes it, where a kernel does so.

    Raises Unsupported if the integer kernels cannot compute with the weight quantizer or the input quantizer.
    """

    bias: Tensor | None
    takes_late, late = True, False

    def __init__(self, module: QuantizedLinear, *, gelu: bool = False) -> None:
        super().__init__()
        weight = stored_weight(module)
        if isinstance(weight, StoredWeight) and not isinstance(weight, QuantizedWeight):
            raise Unsupported(f"weight kind {weight.kind}: {weight.no_integer_reason}; {USE_SIMULATED}")
        if not isinstance(weight, QuantizedWeight):
            raise Unsupported(f"the weight is not quantized: integer kernels need 2 to 8 bits; {USE_SIMULATED}")
        width = weight.codes.shape[1]
        self.input_group, self.symmetric, self.static = input_ranges(module, width)
        weight_group = width if weight.group_size is None else weight.group_size
        self.packed = pack_weight(
            weight.codes,
            weight.scale,
            weight.zero_point,
            bits=weight.bits,
            group_size=packed_group_size(weight_group, self.input_group),
        )
        assert module.activation is not None
        self.activation_bits = module.activation.bits
        self.register_buffer("bias", module.bias, persistent=False)
        self.transform, self.low_rank, self.gelu = module.transform, module.low_rank, gelu
        self.parts = parts_of(module.transform, module.low_rank)
        self.threads = torch.get_num_threads()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "IntegerLinear":
        """Move the packed weight and given ranges to another device. Their types never change."""
        device = device_after(fn, self.packed.scale)
        self.packed, self.parts = self.packed.to(device), self.parts.to(device)
        self.static = None if self.static is None else (self.static[0].to(device), self.static[1].to(device))
        super()._apply(fn, recurse)
        return self

    def forward(self, x: Tensor | LateInput) -> Tensor | LateInput:
        device, is_compiling = (x if isinstance(x, Tensor) else x.x).device.type, torch.compiler.is_compiling()
        if self.transform is not None and not self.parts.steps:
            x = self.transform(values_of(x))
        is_cast = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_cast else None
        options: dict[str, Any] = {
            "activation_bits": self.activation_bits,
            "symmetric": self.symmetric,
            "input_group": self.input_group,
            "static": self.static,
            "parts": self.parts,
            "threads": self.threads,
        }
        if is_compiling:
            assert isinstance(x, Tensor)
            y = ops.grouped_linear(x.contiguous(), self.packed, self.bias, **options)
            y = y if dtype is None else y.to(dtype)
        else:
            x = x.contiguous() if isinstance(x, Tensor) else x
            y = grouped_linear(x, self.packed, self.bias, dtype=dtype, **options)
        return gelu_of(y, late=self.late) if self.gelu else y


class IntegerConv(IntegerLinear):
    """Convolution with packed integer weights whose patches do not overlap.

    Its input has one range for the whole tensor. A pointwise convolution computes as a linear over the channels, and
    its input may have the ranges that a linear allows.
    """

    def __init__(self, module: QuantizedConv) -> None:
        static, is_pointwise = module.activation, set(module.kernel) == {1}
        if not is_pointwise and (not isinstance(static, StaticActivation) or static.scale.numel() != 1):
            raise Unsupported(f"a convolution runs in integers only with one static input range; {USE_SIMULATED}")
        super().__init__(module)
        self.kernel, self.is_pointwise = module.kernel, is_pointwise

    def forward(self, x: Tensor | LateInput) -> Tensor:
        assert isinstance(x, Tensor)
        if self.is_pointwise:
            return cast(Tensor, super().forward(x.movedim(1, -1))).movedim(-1, 1)
        dims, patches = len(self.kernel), x
        for at, size in enumerate(self.kernel):
            patches = patches.unflatten(2 + 2 * at, (-1, size))
        cells, inside = (range(first, first + 2 * dims, 2) for first in (2, 3))
        y = super().forward(patches.permute(0, *cells, 1, *inside).flatten(1 + dims))
        return cast(Tensor, y).movedim(-1, 1)


def input_ranges(module: QuantizedLinear, width: int) -> tuple[int, bool, tuple[Tensor, Tensor] | None]:
    """Describe the ranges of a layer's input quantizer by three values.

    They are the number of inputs that share a range, whether the range is symmetric, and static scales and zero points
    (None for dynamic ranges).
    """
    match module.activation:
        case DynamicActivation(sharing="token") as dynamic if dynamic.include_zero or dynamic.symmetric:
            size = width if dynamic.group_size is None else dynamic.group_size
            return size, dynamic.symmetric, None
        case DynamicActivation(sharing="token"):
            raise Unsupported(f"input ranges that leave zero out do not fit the integer kernels; {USE_SIMULATED}")
        case DynamicActivation() as dynamic:
            raise Unsupported(
                f"input ranges shared by a {dynamic.sharing} do not fit the integer kernels; {USE_SIMULATED}"
            )
        case StaticActivation(per="group") as static:
            ranges = (static.scale, static.zero_point.float())
            return check_static(torch.empty(width), *ranges), False, ranges
        case None:
            raise Unsupported(f"the input is not quantized: integer kernels need 2 to 8 bits; {USE_SIMULATED}")
        case other:
            kind = other.spec()["kind"]
            raise Unsupported(f"input quantizer of kind {kind} does not fit the integer kernels; {USE_SIMULATED}")


def parts_of(transform: Chain | None, low_rank: LowRank | None) -> Parts:
    """Return what the kernel computes of a transform and a branch: the branch, and all steps or none."""
    steps = None if transform is None else [step_of(step) for step in transform.steps()]
    branch = None if low_rank is None else make_branch(low_rank.up, low_rank.down)
    if steps is None or None in steps:
        return Parts((), branch)
    return Parts(tuple(step for several in steps for step in several or ()), branch)


def step_of(transform: Transform) -> tuple[Step, ...] | None:
    """Return the kernel's steps that compute a transform; None if the kernel cannot compute it."""
    match transform:
        case Divide(factor=factor):
            return (channel_step("divide", factor),)
        case Shift(offset=offset):
            return (channel_step("subtract", offset),)
        case Hadamard(size=size, signs=None):
            return (hadamard_step(size),)
        case Hadamard(size=size, signs=Tensor() as signs):
            return channel_step("multiply", signs), hadamard_step(size)
    return None


def packed_group_size(weight_group: int, input_group: int) -> int:
    """Choose the group size for packing: a divisor of both group sizes, if possible a multiple of 4 up to 512.

    Long groups are split, because a chunk of a weight must fit into the first-level cache. If no multiple of 4 divides
    both, the result is their greatest common divisor, and `pack_weight` refuses it.
    """
    common = math.gcd(weight_group, input_group)
    return max((size for size in range(4, min(common, CHUNK) + 1, 4) if common % size == 0), default=common)


def prepare_integer(model: M, *, late: bool = True) -> M:
    """Replace quantized layers by integer layers, in place, and prepare all other layers as `prepare_inference` does.

    `late` is that of `prepare_inference`. Raises Unsupported as `integer_layers` does.
    """
    return prepare_inference(integer_layers(model), late=late)


def integer_layers(model: M) -> M:
    """Replace quantized layers by integer layers, in place; all other layers stay.

    A layer with a quantized weight but a full-precision input still computes in floating point. Raises Unsupported with
    the name of the first layer that cannot run in integers, and for a model without any integer layer.
    """
    first_of_mlp = {f"{name}.fc1" for name, module in model.named_modules() if isinstance(module, Mlp)}
    any_integer = False
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedOperand):
            raise Unsupported(f"{name}: quantized operands of attention have no integer kernel; {USE_SIMULATED}")
        if not isinstance(module, QuantizedLinear) or module.activation is None:
            continue
        try:
            if isinstance(module, QuantizedConv):
                replace(model, name, IntegerConv(module))
            else:
                replace(model, name, IntegerLinear(module, gelu=name in first_of_mlp))
        except Unsupported as problem:
            raise Unsupported(f"{name}: {problem}") from None
        any_integer = True
    if not any_integer:
        raise Unsupported(f"no layer has a quantized weight and a quantized input: nothing to run; {USE_SIMULATED}")
    flags.watch(model)
    return model


def integer_backend() -> str:
    """Return the names of the backends for integer layers and for floating-point layers, as `avx512-vnni + onednn`."""
    return f"{library.backend_name()} + {dense.backend()}"


def kernels_sha256() -> str:
    """Return the digest of the kernels' C++ sources. Digests of Python modules do not cover these sources."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
