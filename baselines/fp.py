"""Full precision: the model is not quantized, but it goes through the same steps as every method.

It is the positive control: its rows show what the suite measures without quantization.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from qdit.core.errors import Unsupported
from qdit.core.options import CheckedOptions
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.sampling.calibration import CalibrationSet


@dataclass(frozen=True)
class FullPrecisionOptions(CheckedOptions):
    """Options of full precision: there are none."""


class FullPrecision(Method):
    """Returns the model unchanged. It accepts only 16 bits for weights and activations.

    The papers' tables call it "FP16"; the mini profile computes in float32.
    """

    name = "fp"
    printed = "FP"
    citation = """@inproceedings{peebles2023dit,
  title = {Scalable Diffusion Models with Transformers},
  author = {Peebles, William and Xie, Saining},
  booktitle = {ICCV},
  year = {2023}
}"""
    Options = FullPrecisionOptions
    common_weights_are_core = True
    color = "#000000"  # black
    marker = "*"
    memory_mb = 16_000
    minutes = 60

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: FullPrecisionOptions,
    ) -> Quantized:
        """Return an unchanged copy of the model."""
        if (weight_bits, activation_bits) != (FULL_PRECISION_BITS, FULL_PRECISION_BITS):
            raise Unsupported(f"fp: W{weight_bits}A{activation_bits} is not full precision; ask for w16a16")
        return Quantized(deepcopy(model))
