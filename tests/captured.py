"""What whole forward passes give and take at one submodule: the plain form of stores and of reconstruction."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from qdit.quant.batches import Batch, run
from qdit.quant.observe import Captured


def capture(model: nn.Module, name: str, batches: Iterable[Batch]) -> tuple[tuple[Tensor, ...], Tensor]:
    """All inputs and the output of one submodule over all batches, each concatenated along the first dimension.

    Layers after the submodule are not computed.
    """
    inputs: list[tuple[Any, ...]] = []
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        inputs.append(arguments)
        outputs.append(output)
        raise Captured

    handle = model.get_submodule(name).register_forward_hook(keep)
    try:
        with torch.no_grad():
            for batch in batches:
                with suppress(Captured):
                    run(model, batch)
    finally:
        handle.remove()
    return tuple(torch.cat(column) for column in zip(*inputs, strict=True)), torch.cat(outputs)
