"""optimum-quanto: Hugging Face's quantization toolkit; activations get static ranges from calibration data."""

from typing import Any, ClassVar

from qdit.sampling.tools.contract import Request, Tool


class OptimumQuanto(Tool):
    """optimum-quanto, with weights per channel (8 bits) or in groups that it chooses (4 bits).

    Activations have one static range per tensor.
    """

    name = "optimum-quanto"
    printed = "optimum-quanto"
    package = "optimum-quanto"
    licence = "Apache-2.0"
    address = "https://github.com/huggingface/optimum-quanto"
    bits: ClassVar = {
        "w8a8": "weights per channel, activations per tensor with static ranges",
        "w4a8": "weights in groups, activations per tensor with static ranges",
        "w4a16": "weights in groups, dequantized before the product",
        "w8a16": "weights per channel",
    }
    calibrated = ("w8a8", "w4a8")

    def quantize(self, transformer: Any, request: Request) -> Any:
        """Replace the layers by quanto's layers, measure the ranges of activations, and fix the weights' codes."""
        import torch
        from optimum.quanto import Calibration, freeze, qint4, qint8, quantize

        activations = qint8 if request.activation_bits == 8 else None
        weights = {8: qint8, 4: qint4}[request.weight_bits]
        quantize(transformer, weights=weights, activations=activations, include=list(request.layers))
        if activations is not None:
            with torch.no_grad(), Calibration():
                request.calibrate()
        freeze(transformer)
        return transformer

    def prepare(self) -> None:
        """Build the extension that unpacks 4-bit codes; this takes a C++ compiler, and minutes on a slow machine."""
        import torch
        from optimum import quanto  # noqa: F401 - registers the operator

        torch.ops.quanto.unpack(torch.zeros(2, 4, dtype=torch.uint8), 4)
