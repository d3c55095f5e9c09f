"""SDNQ: the quantization engine of SD.Next.

SDNQ has the licence GPL-3.0-only. The suite neither contains it nor imports it: this file is read by the program of the
tools' own process (`qdit.sampling.tools.driver`), which loads SDNQ from the tools' own environment.
"""

import os
from typing import Any, ClassVar

from qdit.sampling.tools.contract import Request, Tool


class SDNQ(Tool):
    """SDNQ, with weights per channel (8 bits) or in groups that it chooses (4 bits).

    Activations have a range per token; matrix products use integers. torch.compile is off: it would compile for
    minutes, and its products are the same. On a CPU without OpenVINO the integer products are torch's own.
    """

    name = "sdnq"
    printed = "SDNQ"
    package = "sdnq"
    licence = "GPL-3.0-only"
    address = "https://github.com/Disty0/sdnq"
    bits: ClassVar = {
        "w8a8": "weights per channel, activations per token, integer products",
        "w4a8": "4-bit weights, requantized to 8 bits for integer products, activations per token",
        "w4a16": "4-bit weights, dequantized before the product",
        "w8a16": "weights per channel, dequantized before the product",
    }

    def quantize(self, transformer: Any, request: Request) -> Any:
        """Replace the layers by SDNQ's layers."""
        os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
        import torch
        from sdnq import sdnq_post_load_quant

        names = set(request.layers)
        others = [name for name, module in transformer.named_modules() if is_leaf(module) and name not in names]
        skipped = [f"{name}.weight" for name in others]  # SDNQ matches the whole name of the parameter
        return sdnq_post_load_quant(
            transformer,
            weights_dtype=f"int{request.weight_bits}",
            torch_dtype=torch.float32,
            use_quantized_matmul=request.activation_bits == 8,
            minimum_allowed_numel=0,
            minimum_allowed_channel_size=0,
            modules_to_not_convert=skipped,
        )


def is_leaf(module: Any) -> bool:
    """Whether a module itself holds weights, not only modules inside it."""
    return getattr(module, "weight", None) is not None
