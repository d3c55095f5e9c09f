"""torchao: PyTorch's own library of quantized tensors. Its configurations decide granularity and arithmetic."""

from typing import Any, ClassVar

from qdit.sampling.tools.contract import Request, Tool, chosen


class TorchAO(Tool):
    """torchao, with weights per channel (8 bits) or in groups of 16 (4 bits), and activations per token.

    Ranges are symmetric where torchao does not choose otherwise. The groups are those of this suite's rows in the
    miniature. torchao's default of 128 does not divide the widths of the miniature. Then torchao does not quantize the
    layer, and gives no message.
    """

    name = "torchao"
    printed = "torchao"
    package = "torchao"
    licence = "BSD-3-Clause"
    address = "https://github.com/pytorch/ao"
    bits: ClassVar = {
        "w8a8": "weights per channel, activations per token, integer products",
        "w4a8": "weights in groups of 16, activations per token, dequantized before the product",
        "w4a16": "weights in groups of 16, dequantized before the product",
        "w8a16": "weights per channel, dequantized before the product",
    }

    def quantize(self, transformer: Any, request: Request) -> Any:
        """Replace the weights of the layers by torchao's tensors."""
        from torchao.quantization import quantize_

        quantize_(transformer, configuration(request), filter_fn=chosen(request.layers))
        return transformer


def configuration(request: Request) -> Any:
    """The configuration object of torchao that quantizes with these bits."""
    import torch
    from torchao import quantization as ao

    if request.bits == "w8a8":
        return ao.Int8DynamicActivationInt8WeightConfig()
    if request.bits == "w8a16":
        return ao.Int8WeightOnlyConfig()
    groups, four_bits = ao.PerGroup(16), torch.int4  # type: ignore[attr-defined]
    if request.bits == "w4a16":
        return ao.IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=groups)
    return ao.Int8DynamicActivationIntxWeightConfig(weight_dtype=four_bits, weight_granularity=groups)
