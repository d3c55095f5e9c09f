"""NVFP4: weights and inputs are stored in blocks of E2M1 numbers, each block with an E4M3 scale.

It is a number format and not a method of a paper. Numbered details (NVIDIA's description of NVFP4 for Blackwell tensor
cores):
1. A block has 16 channels: numbers in E2M1, and one scale in E4M3. One float32 number scales all blocks of a weight.
2. Inputs have dynamic scales. Each token has its own float32 scale. In NVIDIA's format the whole tensor has one; then
   the output of a sample would depend on its batch.
3. Weights are rounded to nearest.
4. NVFP4 has 4 bits only. At W4A8 inputs are E4M3 with one float32 scale for each block of a token.
5. Both scopes are the four linears of each block.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from qdit.core.errors import Unsupported, naming
from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, matrix_of, select
from qdit.quant.activation import Activation
from qdit.quant.grid_activations import FloatActivation, NvFp4Activation
from qdit.quant.grid_weights import nvfp4_weight
from qdit.quant.sites import quantize_site
from qdit.sampling.calibration import CalibrationSet

WEIGHT_BITS, ACTIVATION_BITS = 4, (4, 8)


@dataclass(frozen=True)
class NvFp4Options(CheckedOptions):
    """Options of NVFP4. `block_size` channels share a scale; this number must divide the width of every layer."""

    block_size: GroupSize = 16


class NvFp4(Method):
    """Quantizes weights and inputs to NVFP4: blocks of 4-bit floating-point numbers share a scale."""

    name = "nvfp4"
    printed = "NVFP4"
    citation = """@misc{nvidia2025nvfp4,
  title = {Introducing {NVFP4} for Efficient and Accurate Low-Precision Inference},
  author = {{NVIDIA}},
  year = {2025}
}"""
    Options = NvFp4Options
    stores_more_than_codes = True
    color = "#76b900"
    marker = "2"
    line = ":"
    memory_mb = 24_000
    minutes = 60

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: NvFp4Options,
    ) -> Quantized:
        """Round the weights in blocks. Quantize the inputs of the same linears with dynamic scales."""
        if weight_bits not in (WEIGHT_BITS, FULL_PRECISION_BITS):
            raise Unsupported(f"{self.name}: weight_bits {weight_bits}; NVFP4 has 4 bits")
        if activation_bits not in (*ACTIVATION_BITS, FULL_PRECISION_BITS):
            raise Unsupported(f"{self.name}: activation_bits {activation_bits}; allowed are 4 (NVFP4), 8 (FP8) and 16")
        model = deepcopy(model)
        for site in select(model.sites(), roles=CORE_ROLES):
            weight, activation = None, activation_for(activation_bits, options.block_size)
            with naming(site.name):
                if weight_bits < FULL_PRECISION_BITS:
                    weight = nvfp4_weight(matrix_of(model, site), block_size=options.block_size)
                quantize_site(model, site, weight=weight, activation=activation)
        return Quantized(model)


def activation_for(bits: int, block_size: int) -> Activation | None:
    """Input quantizer for a number of bits: NVFP4 for 4, E4M3 in blocks for 8, None for 16."""
    if bits == FULL_PRECISION_BITS:
        return None
    if bits == WEIGHT_BITS:
        return NvFp4Activation(block_size=block_size)
    return FloatActivation(element="e4m3", group_size=block_size)
