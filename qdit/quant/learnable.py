"""Quantized sites that can be trained. Reconstruction trains them, then replaces them by ordinary quantized sites."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from qdit.core.errors import Unsupported
from qdit.kernels.backend import Backend
from qdit.kernels.dispatch import learning_backend
from qdit.kernels.learning import gelu, on_grid, through_grid
from qdit.models.network import Network
from qdit.models.roles import Site, linear_of, replace, select
from qdit.quant.activation import StaticActivation
from qdit.quant.observe import tapped
from qdit.quant.rounding import SoftRounding
from qdit.quant.sites import QuantizedConv, QuantizedLinear, QuantizedOperand, quantize_site, stored_weight
from qdit.quant.weight import QuantizedWeight


class LearnedScale(nn.Module):
    """A static activation quantizer whose scale is a parameter (LSQ). Gradients pass through the rounding unchanged."""

    def __init__(self, quantizer: StaticActivation, *, learn: bool) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.scale = nn.Parameter(quantizer.scale.clone(), requires_grad=learn)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.quantizer.entered(x)
        return self.quantizer.left(self._on_grid(entered))

    def _on_grid(self, x: Tensor) -> Tensor:
        """Quantize-dequantize with the current scale."""
        scale: Tensor = self.scale
        levels = 2**self.quantizer.bits - 1
        compiled_backend = learning_backend(x, scale) if scale.numel() == 1 else None
        if compiled_backend is not None:
            result: Tensor = _OnGrid.apply(x, scale, float(self.quantizer.zero_point), levels, compiled_backend)
            return result
        zero_point = self.quantizer.zero_point.to(x.dtype)
        if scale.numel() > 1:
            scale, zero_point = self.quantizer.broadcast(scale, x), self.quantizer.broadcast(zero_point, x)
        value: Tensor = _StraightThrough.apply(x, scale, zero_point, levels)
        return value

    def frozen(self) -> StaticActivation:
        """Return a static quantizer that has the learned scale."""
        return self.quantizer.rescaled(self.scale)


class _StraightThrough(torch.autograd.Function):
    """Quantize-dequantize.

    Gradients pass where codes are not clamped; the scale has the gradient of LSQ (Esser et al.).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
        codes = (x / scale).round_().add_(zero_point)
        value = codes.clamp(0, levels).sub_(zero_point).mul_(scale)
        ctx.save_for_backward(x, scale, codes, value)
        ctx.levels = levels
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, scale, codes, value = ctx.saved_tensors
        # Codes are whole numbers, so half-way bounds let 0 and `levels` pass; boolean masks are several times slower.
        passed = torch.ops.aten.hardtanh_backward(gradient, codes, -0.5, ctx.levels + 0.5)
        of_scale = None
        if ctx.needs_input_grad[1]:
            of_scale = torch.addcmul(gradient * value, passed, x, value=-1).sum_to_size(scale.shape) / scale
        return passed, of_scale, None, None


class _OnGrid(torch.autograd.Function):
    """The same for one scale by the compiled library: one pass over the input in each direction."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: float, levels: int, compiled_backend: Backend
    ) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, scale)
        ctx.grid = (scale.item(), zero_point, levels)
        ctx.compiled_backend = compiled_backend
        return on_grid(compiled_backend, x, *ctx.grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, scale = ctx.saved_tensors
        passed, of_scale = through_grid(ctx.compiled_backend, x, gradient.contiguous(), *ctx.grid)
        return passed, torch.full_like(scale, of_scale) if ctx.needs_input_grad[1] else None, None, None, None


class LearningGelu(nn.Module):
    """Tanh-GELU for training: one pass computes the value and the slope that the backward pass needs."""

    def forward(self, x: Tensor) -> Tensor:
        compiled_backend = learning_backend(x)
        if compiled_backend is None:
            return nn.functional.gelu(x, approximate="tanh")
        value: Tensor = _Gelu.apply(x, compiled_backend)
        return value


class _Gelu(torch.autograd.Function):
    """GELU whose backward pass is one product with the slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, compiled_backend: Backend) -> Tensor:
        value, slope = gelu(compiled_backend, x.contiguous())
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


@contextmanager
def fast_gradients(model: Network, unit: str) -> Iterator[None]:
    """Context manager: makes a unit of reconstruction (a block or a layer) compute its gradients faster.

    Its attention is computed as two matrix products, and each of its GELUs is a `LearningGelu`. torch's fused attention
    has a slow backward pass on CPUs if there are few tokens.
    """
    inside = f"{unit}."
    gelus = [
        name
        for name, module in model.named_modules()
        if name.startswith(inside) and isinstance(module, nn.GELU) and module.approximate == "tanh"
    ]
    queries = [site for site in select(model.sites(), roles=("q",)) if site.name.startswith(inside)]
    modules = {name: model.get_submodule(name) for name in gelus}
    with sdpa_kernel(SDPBackend.MATH), tapped(model, queries):
        try:
            for name in gelus:
                replace(model, name, LearningGelu())
            yield
        finally:
            for name, module in modules.items():
                replace(model, name, module)


class SoftLinear(nn.Module):
    """Linear in training. Its quantized weight has a learned (soft) rounding, its input quantizer has gradients."""

    def __init__(self, weight: Tensor, module: QuantizedLinear, *, learn_rounding: bool, learn_scale: bool) -> None:
        super().__init__()
        stored = stored_weight(module)
        self.rounding = None
        self.register_buffer("weight", module.weight)
        if learn_rounding and isinstance(stored, QuantizedWeight):
            self.rounding = SoftRounding(weight, stored)
        self.register_buffer("bias", module.bias)
        self.transform = module.transform
        activation = module.activation
        if isinstance(activation, StaticActivation):
            self.activation: nn.Module | None = LearnedScale(activation, learn=learn_scale)
        else:
            self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.entered(x))

    def entered(self, x: Tensor) -> Tensor:
        """Apply the input transform to x, then quantize the result."""
        x = x if self.transform is None else self.transform(x)
        return x if self.activation is None else self.activation(x)

    def product(self, x: Tensor) -> Tensor:
        """Multiply a quantized input by the current weight and add the bias."""
        weight = self.get_buffer("weight") if self.rounding is None else self.rounding.weight
        return nn.functional.linear(x, weight, self.bias if isinstance(self.bias, Tensor) else None)


class SoftConv(SoftLinear):
    """Convolution in training whose patches do not overlap, (N, C, …) → (N, out, …).

    It is computed as a linear over the flattened patches. So its weight is learned as that of a linear, and no other
    compiled code is needed. In a pointwise convolution, the channels are the last dimension for transform and
    quantizer.
    """

    def __init__(self, weight: Tensor, module: QuantizedConv, *, learn_rounding: bool, learn_scale: bool) -> None:
        super().__init__(weight.flatten(1), module, learn_rounding=learn_rounding, learn_scale=learn_scale)
        self.kernel = module.kernel

    def forward(self, x: Tensor) -> Tensor:
        if set(self.kernel) == {1}:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)
        grid = [size // cells for size, cells in zip(x.shape[2:], self.kernel, strict=True)]
        return self.product(unfolded(self.entered(x), self.kernel)).transpose(1, 2).unflatten(2, grid)


def unfolded(x: Tensor, kernel: Sequence[int]) -> Tensor:
    """Cut x (N, C, …) into patches (N, positions, C · cells), with the values of a patch in a flat kernel's order.

    Each side of x must be a multiple of the kernel's side.
    """
    dimensions = len(kernel)
    grid = [size // cells for size, cells in zip(x.shape[2:], kernel, strict=True)]
    pairs = [side for pair in zip(grid, kernel, strict=True) for side in pair]
    positions, cells = range(2, 2 + 2 * dimensions, 2), range(3, 3 + 2 * dimensions, 2)
    patches = x.reshape(*x.shape[:2], *pairs).permute(0, *positions, 1, *cells)
    return patches.reshape(len(x), math.prod(grid), -1)


class Learner:
    """Replaces some sites of a model by trainable modules, and puts quantized modules back after the training."""

    def __init__(
        self, model: Network, reference: Network, sites: Sequence[Site], *, rounding: bool, scales: bool
    ) -> None:
        self.model, self.sites = model, sites
        self.soft: dict[str, SoftLinear | QuantizedOperand] = {}
        for site in sites:
            module = model.get_submodule(site.name)
            if isinstance(module, QuantizedOperand) and isinstance(module.activation, StaticActivation):
                learned = QuantizedOperand(LearnedScale(module.activation, learn=scales))  # type: ignore[arg-type]
                self.soft[site.name] = learned
            elif isinstance(module, QuantizedLinear):
                if module.low_rank is not None:
                    raise Unsupported(
                        f"{site.name}: its rounding cannot be learned beside a low-rank branch; round it by GPTQ"
                    )
                weight = linear_of(reference, site).weight.detach()
                learned_parts = {"learn_rounding": rounding, "learn_scale": scales}
                if isinstance(module, QuantizedConv):
                    self.soft[site.name] = SoftConv(weight, module, **learned_parts)
                else:
                    self.soft[site.name] = SoftLinear(weight, module, **learned_parts)
        for name, module in self.soft.items():
            replace(model, name, module)

    def roundings(self) -> list[SoftRounding]:
        """Return the learned roundings of all weights."""
        roundings = (module.rounding for module in self.soft.values() if isinstance(module, SoftLinear))
        return [rounding for rounding in roundings if rounding is not None]

    def scales(self) -> list[nn.Parameter]:
        """Return the activation scales that are learned."""
        scales = (m.activation.scale for m in self.soft.values() if isinstance(m.activation, LearnedScale))
        return [scale for scale in scales if scale.requires_grad]

    def harden(self, originals: dict[str, nn.Module]) -> None:
        """Put the quantized modules `originals` back, with the codes and scales that were learned."""
        for site in self.sites:
            if site.name not in self.soft:
                continue
            module = self.soft[site.name]
            replace(self.model, site, originals[site.name])
            learned = module.activation
            weight = module.rounding.hard() if isinstance(module, SoftLinear) and module.rounding is not None else None
            activation = learned.frozen() if isinstance(learned, LearnedScale) else None
            quantize_site(self.model, site, weight=weight, activation=activation)
