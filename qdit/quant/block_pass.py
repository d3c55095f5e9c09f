"""A DiT block in training with its gradients written out, for small models on CPUs.

torch's own backward pass runs about 60 small operations for each iteration. Here the same equations take about 25, and
attention, LayerNorm and GELU are one pass each (`qdit.kernels.gradients`). Values and gradients are those of torch but
for rounding errors. `block_pass` returns None if a block, a quantizer or a tensor is of another kind; then torch
computes it.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from qdit.kernels import gradients
from qdit.kernels.backend import Backend
from qdit.kernels.dispatch import learning_backend
from qdit.kernels.fused import modulated_norm
from qdit.kernels.gradients import OPERANDS, LearningAttention, fits, norm_gradients
from qdit.kernels.learning import gelu, on_grid, through_grid
from qdit.models.dit import DiTBlock, ModulatedLayerNorm
from qdit.quant.activation import FactoredActivation, StaticActivation
from qdit.quant.learnable import LearnedScale, LearningGelu, SoftLinear
from qdit.quant.observe import Tap
from qdit.quant.sites import QuantizedOperand
from qdit.quant.store import Rows, RowStore


class ScalePass:
    """One learned scale: its grid at present, and its gradient."""

    def __init__(self, learned: LearnedScale) -> None:
        self.scale = learned.scale
        self.levels = 2**learned.quantizer.bits - 1
        self.zero_point = float(learned.quantizer.zero_point)

    @property
    def learns(self) -> bool:
        """Whether the scale is learned."""
        return self.scale.requires_grad

    def grid(self) -> tuple[float, float, int]:
        """(scale, zero point, levels)."""
        return self.scale.item(), self.zero_point, self.levels

    def keep(self, gradient: float) -> None:
        """Keep the gradient of the scale if it is learned."""
        if self.learns:
            self.scale.grad = torch.full_like(self.scale, gradient)


class LinearPass:
    """A linear in training: forward and backward on two-dimensional tensors (rows, in)."""

    def __init__(self, module: SoftLinear, backend: Backend) -> None:
        self.backend, self.rounding = backend, module.rounding
        self.weight = module.get_buffer("weight") if module.rounding is None else module.rounding.weight.detach()
        self.bias = module.bias
        self.scale = ScalePass(module.activation) if isinstance(module.activation, LearnedScale) else None

    def forward(self, x: Tensor) -> Tensor:
        """Output (rows, out)."""
        self.entered = self.rounded = x
        if self.scale is not None:
            self.grid = self.scale.grid()
            self.rounded = on_grid(self.backend, x, *self.grid)
        if isinstance(self.bias, Tensor):
            return torch.addmm(self.bias, self.rounded, self.weight.t())
        return self.rounded @ self.weight.t()

    def backward(self, gradient: Tensor, *, further: bool = True) -> Tensor | None:
        """Gradient of the input, if it is needed `further`. Gradients of weight and scale are kept in their places."""
        if self.rounding is not None:
            self.rounding.weight.grad = gradient.t() @ self.rounded
        if not further and (self.scale is None or not self.scale.learns):
            return None
        of_input = gradient @ self.weight
        if self.scale is None:
            return of_input
        passed, of_scale = through_grid(self.backend, self.entered, of_input, *self.grid)
        self.scale.keep(of_scale)
        return passed


class BlockPass:
    """Forward and backward pass of a block for rows of its inputs: tokens (N, T, D) and conditions (N, D)."""

    def __init__(self, block: DiTBlock, inputs: Sequence[RowStore], backend: Backend) -> None:
        self.backend, (self.tokens, conditions) = backend, inputs
        self.linears = [LinearPass(linear, backend) for linear in soft_linears(block)]
        self.operands = [operand_scale(block, name) for name in OPERANDS]
        values: Any = block.attn.v
        factor: Tensor | None = values.activation.quantizer.factor if is_factored(values) else None
        heads, width = block.attn.num_heads, self.tokens.shape[-1]
        if factor is not None:
            factor = factor.expand(heads, 1, width // heads).flatten().contiguous()
        self.attention = LearningAttention(backend, heads, factor)
        activated, modulation = block.adaLN_modulation.children()
        with torch.no_grad():
            conditions_after = activated(conditions.whole())
            if isinstance(modulation, SoftLinear):
                self.modulation: LinearPass | None = LinearPass(modulation, backend)
                self.conditions = conditions_after
            else:  # nothing before the linears of the block changes
                self.modulation, self.conditions = None, modulation(conditions_after)

    @torch.no_grad()
    def forward(self, rows: Rows) -> Tensor:
        """Outputs of the block (N, T, D)."""
        qkv, projection, fc1, fc2 = self.linears
        x, conditions = self.tokens[rows], self.conditions[rows.on_device]
        rows_of_tokens = (-1, x.shape[-1])
        six = conditions if self.modulation is None else self.modulation.forward(conditions)
        shift1, scale1, gate1, shift2, scale2, gate2 = six.unflatten(1, (6, -1)).unbind(1)
        normed = modulated_norm(x, shift1, scale1)
        assert normed is not None
        self.qkv = qkv.forward(normed.view(rows_of_tokens)).view(*x.shape[:2], -1)
        self.grids = gradients.no_grids()
        for row, operand in zip(self.grids, self.operands, strict=True):
            row[:] = row if operand is None else operand.grid()
        mixed, self.weights = self.attention.forward(self.qkv, self.grids)
        self.projected = projection.forward(mixed.view(rows_of_tokens)).view_as(x)
        middle = torch.addcmul(x, gate1[:, None], self.projected)
        normed = modulated_norm(middle, shift2, scale2)
        assert normed is not None
        hidden, self.slope = gelu(self.backend, fc1.forward(normed.view(rows_of_tokens)))
        self.out = fc2.forward(hidden).view_as(x)
        self.x, self.middle, self.six = x, middle, six
        return torch.addcmul(middle, gate2[:, None], self.out)

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        """Keep the gradients of all weights and scales that are learned, for the gradient of the outputs (N, T, D)."""
        qkv, projection, fc1, fc2 = self.linears
        _, scale1, gate1, _, scale2, gate2 = self.six.unflatten(1, (6, -1)).unbind(1)
        of_six = None if self.modulation is None else self.six.new_empty(*gate1.shape[:1], 6, gate1.shape[1])
        rows_of_tokens = (-1, gradient.shape[-1])
        of_hidden = _needed(fc2.backward((gradient * gate2[:, None]).view(rows_of_tokens))).mul_(self.slope)
        of_normed = _needed(fc1.backward(of_hidden)).view_as(gradient)
        of_middle = torch.empty_like(gradient)
        norm_gradients(
            self.backend,
            self.middle,
            scale2,
            of_normed,
            of_x=of_middle,
            of_modulation=None if of_six is None else of_six[:, 3:5],
        )
        of_middle += gradient
        of_mixed = _needed(projection.backward((of_middle * gate1[:, None]).view(rows_of_tokens)))
        of_qkv, of_scales = self.attention.backward(self.qkv, self.grids, self.weights, of_mixed)
        for operand, of_scale in zip(self.operands, of_scales.tolist(), strict=True):
            if operand is not None:
                operand.keep(of_scale)
        of_first = qkv.backward(of_qkv.flatten(0, 1), further=of_six is not None)
        if of_six is not None and self.modulation is not None:
            of_six[:, 5] = (gradient * self.out).sum(dim=1)
            of_six[:, 2] = (of_middle * self.projected).sum(dim=1)
            of_first = _needed(of_first).view_as(gradient)
            norm_gradients(self.backend, self.x, scale1, of_first, of_modulation=of_six[:, 0:2])
            self.modulation.backward(of_six.flatten(1), further=False)


def _needed(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def block_pass(block: nn.Module, inputs: Sequence[RowStore]) -> BlockPass | None:
    """The written-out pass of a block that is in training, or None if torch must compute it."""
    if type(block) is not DiTBlock or len(inputs) != 2 or not all(store.shape for store in inputs):
        return None
    compiled_backend = learning_backend(*(store.chunks[0] for store in inputs))
    tokens, width = inputs[0].shape[0], inputs[0].shape[-1]
    if compiled_backend is None or not fits(compiled_backend, tokens, width // block.attn.num_heads):
        return None
    norms = [type(norm) is ModulatedLayerNorm for norm in (block.norm1, block.norm2)]
    act = block.mlp.act
    is_gelu = isinstance(act, LearningGelu) or (isinstance(act, nn.GELU) and act.approximate == "tanh")
    linears = [*soft_linears(block), block.adaLN_modulation[1]]
    plain = all(type(linear) is SoftLinear and one_scale(linear.activation) for linear in linears[:4])
    modulation = not isinstance(linears[4], SoftLinear) or one_scale(linears[4].activation)
    if not (all(norms) and is_gelu and plain and modulation and all(takes_operand(block, name) for name in OPERANDS)):
        return None
    return BlockPass(block, inputs, compiled_backend)


def soft_linears(block: DiTBlock) -> list[SoftLinear]:
    """The four linears of a block, in the order of the data."""
    return [block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2]  # type: ignore[list-item]


def takes_operand(block: DiTBlock, name: str) -> bool:
    """Whether an operand of attention is an identity, or has one scale. V may have a factor."""
    module = getattr(block.attn, name)
    if isinstance(module, nn.Identity | Tap):
        return True
    kinds = (StaticActivation, FactoredActivation) if name == "v" else (StaticActivation,)
    return isinstance(module, QuantizedOperand) and one_scale(module.activation, *kinds)


def one_scale(activation: nn.Module | None, *kinds: type) -> bool:
    """Whether there is no quantizer, or a static one of these kinds with one scale in float32."""
    if activation is None:
        return True
    if not isinstance(activation, LearnedScale) or type(activation.quantizer) not in (kinds or (StaticActivation,)):
        return False
    return activation.scale.numel() == 1 and activation.scale.dtype == torch.float32


def operand_scale(block: DiTBlock, name: str) -> ScalePass | None:
    """The learned scale of an operand, or None if it has no quantizer."""
    module = getattr(block.attn, name)
    return ScalePass(cast(LearnedScale, module.activation)) if isinstance(module, QuantizedOperand) else None


def is_factored(module: nn.Module) -> bool:
    """Whether an operand has a factor before its quantizer."""
    return isinstance(module, QuantizedOperand) and isinstance(module.activation.quantizer, FactoredActivation)
