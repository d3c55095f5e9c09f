"""Gradients of a DiT block in training, written out by hand for small models on CPUs, without autograd.

An iteration is the matrix products of the linears, which torch computes, and nine passes of the compiled library
between them (`qdit.kernels.block`). All memory is reserved once, and torch records no graph. Values and gradients equal
those of torch's automatic differentiation except for rounding errors. `block_pass` returns None if a block, a quantizer
or a tensor is of a kind that the library cannot compute. Then torch computes the unit.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from qdit.kernels.backend import Backend
from qdit.kernels.block import GRIDS, LINEARS, OPERANDS, BlockBuffers, Grid, Shape, Stage
from qdit.kernels.dispatch import learning_backend
from qdit.kernels.learning import on_grid, through_grid
from qdit.models.dit import DiTBlock, ModulatedLayerNorm
from qdit.quant.activation import FactoredActivation, StaticActivation
from qdit.quant.learnable import LearnedScale, LearningGelu, SoftLinear
from qdit.quant.observe import Tap
from qdit.quant.rounding import SoftRounding
from qdit.quant.sites import QuantizedLinear, QuantizedOperand
from qdit.quant.store import Rows, RowStore


class ScalePass:
    """A quantizer with one scale during training: its current grid, and the gradient of the scale."""

    def __init__(self, learned: LearnedScale) -> None:
        self.scale = learned.scale
        self.levels = 2**learned.quantizer.bits - 1
        self.zero_point = float(learned.quantizer.zero_point)
        self.gradient = torch.zeros_like(self.scale.detach())
        self.memory = self.gradient.numpy()

    @property
    def learns(self) -> bool:
        """Whether this scale is learned (or stays as calibrated)."""
        return self.scale.requires_grad

    def grid(self) -> Grid:
        """Return the current (scale, zero point, levels), where levels is the largest code, 2^bits − 1."""
        return self.scale.item(), self.zero_point, self.levels

    def keep(self, gradient: float) -> None:
        """Store the gradient of the scale for the next Adam step, if the scale is learned."""
        if self.learns:
            self.memory[...] = gradient
            self.scale.grad = self.gradient


class LinearPass:
    """A linear in training: its forward and backward matrix products, on two-dimensional tensors."""

    def __init__(self, module: SoftLinear) -> None:
        self.rounding = module.rounding
        self.weight = module.get_buffer("weight") if module.rounding is None else module.rounding.weight.detach()
        self.bias = module.bias if isinstance(module.bias, Tensor) else torch.zeros(len(self.weight))
        self.of_weight = torch.empty_like(self.weight)

    def forward(self, x: Tensor, output: Tensor) -> None:
        """Write the product of x (rows, in) and the weight to `output` (rows, out), without the bias."""
        torch.mm(x, self.weight.t(), out=output)

    def backward(self, x: Tensor, of_output: Tensor, of_input: Tensor | None) -> None:
        """Write the gradient of the input to `of_input` (rows, in) unless it is None. Store that of learned weights."""
        if self.rounding is not None:
            keep_gradient(self.rounding, torch.mm(of_output.t(), x, out=self.of_weight))
        if of_input is not None:
            torch.mm(of_output, self.weight, out=of_input)


def keep_gradient(rounding: SoftRounding, gradient: Tensor) -> None:
    """Store the gradient of the soft weight in its `grad`, where the next optimizer step reads it."""
    rounding.weight.grad = gradient


class ModulationPass:
    """The adaLN linear (n, D) → (n, 6 · D) in training, if it belongs to the unit that is reconstructed."""

    def __init__(self, module: SoftLinear, conditions: Tensor, backend: Backend) -> None:
        self.linear, self.conditions, self.backend = LinearPass(module), conditions, backend
        self.scale = ScalePass(module.activation) if isinstance(module.activation, LearnedScale) else None

    def forward(self, rows: Tensor) -> Tensor:
        """Compute shifts, scales and gates (n, 6 · D) of the samples `rows`."""
        self.entered = self.rounded = self.conditions[rows]
        if self.scale is not None:
            self.grid = self.scale.grid()
            self.rounded = on_grid(self.backend, self.entered, *self.grid)
        return torch.addmm(self.linear.bias, self.rounded, self.linear.weight.t())

    def backward(self, of_output: Tensor) -> None:
        """Compute and store the gradients of the weight and of the input scale, from the gradient of the output."""
        learns = self.scale is not None and self.scale.learns
        of_input = torch.empty_like(self.entered) if learns else None
        self.linear.backward(self.rounded, of_output, of_input)
        if self.scale is not None and of_input is not None:
            _, of_scale = through_grid(self.backend, self.entered, of_input, *self.grid)
            self.scale.keep(of_scale)


class BlockPass:
    """Computes error and gradients of a block for some of its input samples: tokens (N, T, D), conditions (N, D)."""

    def __init__(self, block: DiTBlock, inputs: Sequence[RowStore], backend: Backend) -> None:
        tokens, conditions = inputs
        self.backend, self.x = backend, tokens.whole()
        self.linears = [LinearPass(linear) for linear in soft_linears(block)]
        self.scales = scales_of(block)
        self.factor, self.heads = value_factor(block), block.attn.num_heads
        self.hidden = len(self.linears[2].weight)
        activated, modulation = block.adaLN_modulation.children()
        self.modulation: ModulationPass | None = None
        with torch.no_grad():
            after = activated(conditions.whole())
            if isinstance(modulation, SoftLinear):
                self.modulation = ModulationPass(modulation, after, backend)
            else:  # no learned value comes before the rows of modulation
                self.of_all: Tensor = modulation(after)
        first = self.scales.get(0)
        self.passes_first = self.modulation is not None or (first is not None and first.learns)
        self.buffers: BlockBuffers | None = None

    def _buffers_for(self, samples: int) -> BlockBuffers:
        if self.buffers is None or self.buffers.shape.samples != samples:
            shape = Shape(samples, self.x.shape[1], self.heads, self.x.shape[2], self.hidden)
            quantized = [name for index, name in enumerate(LINEARS) if index in self.scales]
            learns = self.modulation is not None
            biases = [linear.bias for linear in self.linears]
            self.buffers = BlockBuffers(
                self.backend, shape, biases, quantized=quantized, factor=self.factor, learns_modulation=learns
            )
        return self.buffers

    @torch.no_grad()
    def gradients(self, rows: Rows, targets: RowStore, power: float) -> Tensor:
        """Return the float64 error () of the samples `rows`, and store the gradients of learned weights and scales."""
        buffers, chosen = self._buffers_for(len(rows.on_cpu)), rows.on_cpu
        modulation = self.of_all if self.modulation is None else self.modulation.forward(chosen)
        buffers.begin(chosen, self.x, targets.whole(), modulation, of_all=self.modulation is None, power=power)
        buffers.set_grids({index: scale.grid() for index, scale in self.scales.items()})
        self._forward(buffers)
        self._backward(buffers)
        for index, scale in self.scales.items():
            scale.keep(buffers.of_scale(index))
        if self.modulation is not None and buffers.of_modulation is not None:
            self.modulation.backward(buffers.of_modulation.flatten(1))
        return torch.tensor(buffers.error, dtype=torch.float64)

    def _forward(self, buffers: BlockBuffers) -> None:
        for index, stage in enumerate((Stage.FIRST_NORM, Stage.ATTENTION, Stage.SECOND_NORM, Stage.GELU)):
            buffers.run(stage)
            self.linears[index].forward(buffers.rounded[index], buffers.output[index])
        buffers.run(Stage.LOSS)

    def _backward(self, buffers: BlockBuffers) -> None:
        stages = (Stage.FIRST_BACKWARD, Stage.ATTENTION_BACKWARD, Stage.SECOND_BACKWARD, Stage.GELU_BACKWARD)
        for index in (3, 2, 1, 0):
            has_gradient = index > 0 or self.passes_first
            of_entered = buffers.of_entered[index] if has_gradient else None
            self.linears[index].backward(buffers.rounded[index], buffers.of_output[index], of_entered)
            if has_gradient:
                buffers.run(stages[index])


def block_pass(block: nn.Module, inputs: Sequence[RowStore]) -> BlockPass | None:
    """Return the compiled forward and backward pass of a block in learned rounding; None if torch must compute it."""
    if type(block) is not DiTBlock or len(inputs) != 2 or [len(store.shape) for store in inputs] != [2, 1]:
        return None
    # A store of a GPU's rows may lie on the host: its chunks do not say where the block is.
    if any(store.device.type != "cpu" for store in inputs) or block.attn.qkv.weight.device.type != "cpu":
        return None
    chunks = [chunk for store in inputs for chunk in store.chunks]
    compiled_backend = learning_backend(*chunks)
    if compiled_backend is None or not all(chunk.is_contiguous() for chunk in chunks) or not takes_block(block):
        return None
    tokens, width = inputs[0].shape
    shape = Shape(1, tokens, block.attn.num_heads, width, block.mlp.fc1.weight.shape[0])
    return BlockPass(block, inputs, compiled_backend) if shape.fits(compiled_backend) else None


def takes_block(block: DiTBlock) -> bool:
    """Whether the compiled passes can compute every module of this block."""
    norms = all(type(norm) is ModulatedLayerNorm for norm in (block.norm1, block.norm2))
    act = block.mlp.act
    is_gelu = isinstance(act, LearningGelu) or (isinstance(act, nn.GELU) and act.approximate == "tanh")
    linears = all(takes_linear(linear) for linear in soft_linears(block))
    return norms and is_gelu and linears and takes_modulation(block) and all(takes_operand(block, n) for n in OPERANDS)


def takes_linear(module: nn.Module) -> bool:
    """Whether a linear is in training, has no input transform, and has at most one scale for its input."""
    return type(module) is SoftLinear and module.transform is None and one_scale(module.activation)


def takes_modulation(block: DiTBlock) -> bool:
    """Whether the passes can compute adaLN.

    They can if its linear is in training, if its input is not quantized, or if its input has static ranges.
    """
    parts = list(block.adaLN_modulation.children())
    if len(parts) != 2:
        return False
    linear = parts[1]
    if isinstance(linear, SoftLinear):
        return takes_linear(linear)
    if isinstance(linear, QuantizedLinear):
        return linear.activation is None or type(linear.activation) is StaticActivation
    return type(linear) is nn.Linear


def soft_linears(block: DiTBlock) -> list[Any]:
    """Return the four linears of a block in the order in which data pass them: qkv, proj, fc1, fc2."""
    return [block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2]


def takes_operand(block: DiTBlock, name: str) -> bool:
    """Whether an operand of attention is not quantized, or has one scale. V may also have a factor."""
    module = getattr(block.attn, name)
    if isinstance(module, nn.Identity | Tap):
        return True
    kinds = (StaticActivation, FactoredActivation) if name == "v" else (StaticActivation,)
    return isinstance(module, QuantizedOperand) and one_scale(module.activation, *kinds)


def one_scale(activation: nn.Module | None, *kinds: type) -> bool:
    """Whether a quantizer is None, or is static, of one of these classes, and has one float32 scale."""
    if activation is None:
        return True
    if not isinstance(activation, LearnedScale) or type(activation.quantizer) not in (kinds or (StaticActivation,)):
        return False
    return activation.scale.numel() == 1 and activation.scale.dtype == torch.float32


def scales_of(block: DiTBlock) -> dict[int, ScalePass]:
    """Return the quantizers of the linears' inputs and of the attention operands, keyed by their index in `GRIDS`."""
    modules = [*soft_linears(block), *(getattr(block.attn, name) for name in OPERANDS)]
    activations = (getattr(module, "activation", None) for module in modules)
    learned = {index: activation for index, activation in enumerate(activations) if activation is not None}
    assert len(modules) == len(GRIDS)
    return {index: ScalePass(cast(LearnedScale, activation)) for index, activation in learned.items()}


def value_factor(block: DiTBlock) -> Tensor | None:
    """Return the factor (D,) by which V is multiplied before its quantizer, or None without one."""
    module = block.attn.v
    if not isinstance(module, QuantizedOperand) or not isinstance(module.activation, LearnedScale):
        return None
    quantizer = module.activation.quantizer
    if not isinstance(quantizer, FactoredActivation):
        return None
    heads, channels = block.attn.num_heads, quantizer.factor.shape[-1]
    return quantizer.factor.expand(heads, 1, channels).flatten().contiguous()
