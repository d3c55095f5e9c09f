"""Differentiable quantized sites: reconstruction trains them, then replaces them by ordinary ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qdit.models.network import Network
from qdit.models.roles import Site, linear_of, replace
from qdit.quant.activation import StaticActivation
from qdit.quant.rounding import SoftRounding
from qdit.quant.sites import QuantizedLinear, QuantizedOperand, quantize_site, stored_weight
from qdit.quant.weight import QuantizedWeight


class LearnedScale(nn.Module):
    """A static activation quantizer whose scale is a parameter; rounding passes gradients straight through (P13)."""

    def __init__(self, quantizer: StaticActivation, *, learn: bool) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.scale = nn.Parameter(quantizer.scale.clone(), requires_grad=learn)

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.scale
        zero_point = self.quantizer.zero_point.to(x.dtype)
        if scale.numel() > 1:
            scale, zero_point = self.quantizer.broadcast(scale, x), self.quantizer.broadcast(zero_point, x)
        value: Tensor = _StraightThrough.apply(self.quantizer.entered(x), scale, zero_point, 2**self.quantizer.bits - 1)
        return self.quantizer.left(value)

    def frozen(self) -> StaticActivation:
        """The quantizer with the learned scale."""
        return self.quantizer.rescaled(self.scale)


class _StraightThrough(torch.autograd.Function):
    """Quantize-dequantize; gradients pass where codes are not clamped, the scale's is that of LSQ (Esser et al.)."""

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


class SoftLinear(nn.Module):
    """Linear in training: soft rounding of its weight where it is quantized, its input quantizer differentiable."""

    def __init__(self, weight: Tensor, module: QuantizedLinear, *, learn_rounding: bool, learn_scale: bool) -> None:
        super().__init__()
        stored = stored_weight(module)
        self.rounding = None
        self.penalty: tuple[float | None, float] = (None, 0.0)
        self.register_buffer("weight", module.weight)
        if learn_rounding and isinstance(stored, QuantizedWeight):
            self.rounding = SoftRounding(weight, stored)
        self.register_buffer("bias", module.bias)
        activation = module.activation
        if isinstance(activation, StaticActivation):
            self.activation: nn.Module | None = LearnedScale(activation, learn=learn_scale)
        else:
            self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.activation is None else self.activation(x)
        weight = self.get_buffer("weight") if self.rounding is None else self.rounding(*self.penalty)
        return nn.functional.linear(x, weight, self.bias if isinstance(self.bias, Tensor) else None)


class Learner:
    """Puts trainable modules in the place of some sites, and quantized modules back after the training."""

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
            elif type(module) is QuantizedLinear:
                weight = linear_of(reference, site).weight.detach()
                self.soft[site.name] = SoftLinear(weight, module, learn_rounding=rounding, learn_scale=scales)
        for name, module in self.soft.items():
            replace(model, name, module)

    def roundings(self) -> list[SoftRounding]:
        """The soft roundings of all sites."""
        roundings = (module.rounding for module in self.soft.values() if isinstance(module, SoftLinear))
        return [rounding for rounding in roundings if rounding is not None]

    def set_penalty(self, beta: float | None, strength: float) -> None:
        """Exponent and strength of the rounding regularizer, whose gradient the next backward pass adds."""
        for module in self.soft.values():
            if isinstance(module, SoftLinear):
                module.penalty = (beta, strength)

    def scales(self) -> list[nn.Parameter]:
        """The scales that are learned."""
        scales = (m.activation.scale for m in self.soft.values() if isinstance(m.activation, LearnedScale))
        return [scale for scale in scales if scale.requires_grad]

    def harden(self, originals: dict[str, nn.Module]) -> None:
        """Put the quantized modules back, with the codes and scales that were learned."""
        for site in self.sites:
            if site.name not in self.soft:
                continue
            module = self.soft[site.name]
            replace(self.model, site, originals[site.name])
            learned = module.activation
            weight = module.rounding.hard() if isinstance(module, SoftLinear) and module.rounding is not None else None
            activation = learned.frozen() if isinstance(learned, LearnedScale) else None
            quantize_site(self.model, site, weight=weight, activation=activation)
