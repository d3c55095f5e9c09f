"""MX formats: blocks of small floating-point numbers share a scale, a power of two. This is no method of a paper.

Numbered details (OCP Microscaling Formats (MX) Specification v1.0):
1. Numbers of 4 bits are E2M1 (MXFP4), of 6 bits E2M3 (MXFP6), of 8 bits E4M3 (MXFP8). Other numbers of bits are
   refused.
2. A block has 32 channels and one E8M0 scale (§6.3). The option `block_size` changes the 32: it does not divide the
   mini models' width 144, so the mini profile takes 16.
3. Weights are rounded to nearest. Inputs have dynamic scales, one for each block of each token.
4. Both scopes are the four linears of each block.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from qdit.core.errors import Unsupported, naming
from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, matrix_of, select
from qdit.quant.grid_activations import MxActivation
from qdit.quant.grid_weights import mx_weight
from qdit.quant.sites import quantize_site
from qdit.sampling.calibration import CalibrationSet

ELEMENTS = {4: "e2m1", 6: "e2m3", 8: "e4m3"}


@dataclass(frozen=True)
class MxOptions(CheckedOptions):
    """Options of the MX formats.

    `block_size` channels share a scale; this number must divide the width of every layer.
    """

    block_size: GroupSize = 32


class Mx(Method):
    """Quantizes weights and inputs to MX (microscaling) formats: blocks of floating-point numbers share a scale."""

    name = "mxfp4"
    printed = "MX float"
    citation = """@misc{ocp2023mx,
  title = {{OCP} Microscaling Formats ({MX}) Specification, Version 1.0},
  author = {{Open Compute Project}},
  year = {2023}
}"""
    Options = MxOptions
    stores_more_than_codes = True
    color = "#4b4b9b"
    marker = "1"
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
        options: MxOptions,
    ) -> Quantized:
        """Round the weights in blocks. Quantize the inputs of the same linears with dynamic scales."""
        for what, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
            if bits < FULL_PRECISION_BITS and bits not in ELEMENTS:
                raise Unsupported(f"{self.name}: {what} {bits}; MX elements have 4, 6 or 8 bits")
        model = deepcopy(model)
        for site in select(model.sites(), roles=CORE_ROLES):
            weight = activation = None
            with naming(site.name):
                if weight_bits < FULL_PRECISION_BITS:
                    element = ELEMENTS[weight_bits]
                    source = matrix_of(model, site)
                    weight = mx_weight(source, element=element, block_size=options.block_size)
                if activation_bits < FULL_PRECISION_BITS:
                    activation = MxActivation(element=ELEMENTS[activation_bits], block_size=options.block_size)
                quantize_site(model, site, weight=weight, activation=activation)
        return Quantized(model)
