"""One model in each mode: full precision, simulation by single torch operations (eager), fused simulation, integers."""

from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.affine import Granularity
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.roles import CORE_ROLES, linear_of, replace, select
from qdit.quant.activation import DynamicActivation
from qdit.quant.integer import prepare_integer
from qdit.quant.ranges import minmax
from qdit.quant.sites import QuantizedLinear, prepare_inference, quantize_site
from qdit.quant.weight import quantize_weight

FULL, PLAIN, EAGER = "full precision", "full precision, torch's linears", "eager simulation, authors' style"
SIMULATED, INTEGER = "simulated", "integer"
MODES = (FULL, PLAIN, EAGER, SIMULATED, INTEGER)


class EagerLinear(nn.Module):
    """A linear with simulated quantization as in the papers' code: about ten elementwise operations, then a product.

    The quantizer is that of Q-DiT's release: one range for each token and group. A range is at least 1e-5 wide and is
    not extended to contain zero.
    """

    def __init__(self, module: QuantizedLinear, *, group_size: int, bits: int) -> None:
        super().__init__()
        self.weight, self.bias = module.weight, module.bias
        self.group_size, self.levels = group_size, 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        groups = x.reshape(-1, x.shape[-1] // self.group_size, self.group_size)
        high, low = groups.amax(dim=-1, keepdim=True), groups.amin(dim=-1, keepdim=True)
        scale = (high - low).clamp(min=1e-5) / self.levels
        zero_point = (-low / scale).round().clamp(0, self.levels)
        codes = ((groups / scale).round() + zero_point).clamp(0, self.levels)
        return F.linear(((codes - zero_point) * scale).reshape(x.shape), self.weight, self.bias)


def random_model(config: DiTConfig) -> DiT:
    """Build a model with random weights. It is as fast as a trained model."""
    generator = torch.Generator().manual_seed(0)
    model = DiT(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
    return model.eval()


def quantized(model: DiT, *, group_size: int, weight_bits: int = 4, activation_bits: int = 8) -> DiT:
    """Copy the model and quantize the linears of its blocks.

    Weights are rounded to nearest in groups; inputs have dynamic ranges in groups.
    """
    copied = deepcopy(model)
    granularity, ranges = Granularity("group", group_size), partial(minmax, symmetric=False)
    for site in select(copied.sites(), roles=CORE_ROLES):
        weight = quantize_weight(
            linear_of(copied, site).weight, bits=weight_bits, granularity=granularity, ranges=ranges
        )
        activation = DynamicActivation(bits=activation_bits, group_size=group_size)
        quantize_site(copied, site, weight=weight, activation=activation)
    return copied


def in_mode(model: DiT, mode: str, *, group_size: int, weight_bits: int = 4) -> DiT:
    """Copy a full-precision model, and prepare the copy for one of `MODES`."""
    if mode == FULL:
        return prepare_inference(deepcopy(model))
    if mode == PLAIN:
        return deepcopy(model)
    copied = quantized(model, group_size=group_size, weight_bits=weight_bits)
    if mode == EAGER:
        for name, module in list(copied.named_modules()):
            if isinstance(module, QuantizedLinear):
                replace(copied, name, EagerLinear(module, group_size=group_size, bits=8))
        return copied
    return prepare_integer(copied) if mode == INTEGER else prepare_inference(copied)
