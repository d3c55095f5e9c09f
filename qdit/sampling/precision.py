"""Device and precision in which a network is evaluated, and the program that computes it.

In float16 or bfloat16, torch's autocast computes the matrix products (linears, patch embedding, attention) in half
precision. The weights are rounded to this precision once. Normalizations, modulations, the sum over blocks, quantizers
and the sampler stay in float32. Inputs of quantizers are converted to float32 first.
"""

from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from qdit.kernels.library import backend_name
from qdit.quant.sites import QuantizedLinear

M = TypeVar("M", bound=nn.Module)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""By the names that flags and profiles have for them."""

CPU = torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Device of a model's tensors."""
    return next(chain(model.buffers(), model.parameters())).device


def backend_on(device: torch.device, of_cpu: Callable[[], str]) -> str:
    """Name, for the record, of the program that computes on a device: `cuda + triton`, or what `of_cpu` returns."""
    return of_cpu() if device.type != "cuda" else f"cuda + {backend_name(str(device))}"


def kind_of_backend(device: torch.device, of_cpu: Callable[[], str]) -> str:
    """Name of the program that computes on a device, for a run's identity. All GPUs have the same name."""
    return of_cpu() if device.type != "cuda" else "cuda"


def round_linears(model: M, dtype: str) -> M:
    """Round the weights of all linears and convolutions to `dtype`, in place. Call it before the weights are packed.

    In a quantized layer the dequantized weight (code, scale and zero point combined) is rounded; codes and scales are
    not.
    """
    if dtype == "float32":
        return model
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.weight = module.weight.to(DTYPES[dtype])
            module.bias = None if module.bias is None else module.bias.to(DTYPES[dtype])
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.to(DTYPES[dtype])
    return model


def in_dtype(model: Callable[..., Tensor], dtype: str) -> Callable[..., Tensor]:
    """A function that calls the model with matrix products computed in `dtype`, and returns its output as float32."""
    if dtype == "float32":
        return model

    def evaluate(x: Tensor, *rest: Tensor | float) -> Tensor:
        with torch.autocast(x.device.type, dtype=DTYPES[dtype]):
            return model(x, *rest).float()

    return evaluate
