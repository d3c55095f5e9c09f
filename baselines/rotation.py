"""Rotation: a Hadamard matrix before each linear spreads outliers over the channels. Then input and weight are rounded.

Numbered details (QuaRot: Ashkboos et al., NeurIPS 2024; ConvRot: Huang et al., arXiv 2512.03673):
1. Inputs of a linear are multiplied by an orthogonal block matrix H, the weight by its inverse: (W Hᵀ)(H x) = W x.
2. Blocks have `block_size` channels, a power of two that divides the width. None takes the largest such power. QuaRot
   rotates the whole width; ConvRot takes small blocks. Sizes of a mini layer: 144 has blocks of 16, 576 of 64.
3. Each of the four linears multiplies its input by H in every forward pass. QuaRot folds one rotation into the residual
   stream. A DiT's adaLN scales channels between the residual stream and the linears, so nothing can be folded there.
4. With `signs`, the channels are multiplied by random signs before H, as in QuaRot; `seed` decides them. ConvRot has no
   signs but a regular Hadamard matrix (no constant row). This matrix is not implemented here.
5. Weights: GPTQ on rotated, quantized inputs (QuaRot), or `rounding="nearest"` (ConvRot needs no calibration). Ranges
   are asymmetric.
6. Inputs have dynamic ranges, one per token (QuaRot), or one per token and group.
7. Both scopes are the four linears of each block. Keys and values keep 16 bits, since a DiT has no cache.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from qdit.core.errors import Unsupported
from qdit.core.options import CheckedOptions, Count, CountOrNone, GroupSize
from qdit.core.seeds import Purpose, torch_generator
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.apply import (
    fitted_log,
    gptq_weights,
    input_width,
    insert_dynamic,
    round_weights,
    site_group_sizes,
)
from qdit.quant.ranges import minmax
from qdit.quant.sites import transform_site
from qdit.quant.transforms import Hadamard, random_signs
from qdit.sampling.calibration import CalibrationSet

BATCH = 32


@dataclass(frozen=True)
class RotationOptions(CheckedOptions):
    """Options of the rotation. `block_size` None takes the largest power of two that divides a layer's width.

    `group_size` None means one range per output channel of a weight, and one per token of an input.
    """

    block_size: Count | None = None
    signs: bool = True
    group_size: GroupSize | None = None
    rounding: Literal["gptq", "nearest"] = "gptq"
    seed: CountOrNone = 0


class Rotation(Method):
    """Rotates inputs and weights by a Hadamard matrix, so that large values spread over all channels."""

    name = "rotation"
    printed = "Hadamard rotation"
    citation = """@inproceedings{ashkboos2024quarot,
  title = {{QuaRot}: Outlier-Free 4-Bit Inference in Rotated {LLMs}},
  author = {Ashkboos, Saleh and Mohtashami, Amirkeivan and Croci, Maximilian L. and Li, Bo and Cameron, Pashmina and
            Jaggi, Martin and Alistarh, Dan and Hoefler, Torsten and Hensman, James},
  booktitle = {NeurIPS},
  year = {2024}
}"""
    calibration = ("trajectory",)
    calibration_unused = (("trajectory", "rounding", "nearest"),)
    Options = RotationOptions
    stores_more_than_codes = True
    color = "#8c564b"
    marker = "d"
    memory_mb = 48_000
    minutes = 120

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: RotationOptions,
    ) -> Quantized:
        """Rotate inputs and weights, quantize the inputs with dynamic ranges, then quantize the rotated weights."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        if min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            generator = torch_generator(options.seed, Purpose.VARIANT)
            for site in sites:
                width = input_width(model, site)
                signs = random_signs(width, generator) if options.signs else None
                transform_site(model, site, Hadamard(width, size=block(width, options.block_size), signs=signs))
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        log: dict[str, Any] = fitted_log(sizes, options.group_size)
        if weight_bits < FULL_PRECISION_BITS and options.rounding == "nearest":
            round_weights(model, sites, bits=weight_bits, rule=minmax, group_sizes=sizes)
        elif weight_bits < FULL_PRECISION_BITS:
            batches = calibration["trajectory"].batches(BATCH)
            log |= gptq_weights(model, sites, batches, bits=weight_bits, group_sizes=sizes)
        return Quantized(model, log=log)


def block(width: int, size: int | None) -> int:
    """Number of channels in a block of the Hadamard matrix: `size`, or the largest power of two that divides `width`.

    Unsupported if `size` is no power of two that divides the width.
    """
    largest = width & -width
    if size is None:
        return largest
    if size & (size - 1) or size > largest:
        raise Unsupported(f"block_size {size}: a layer of width {width} allows powers of two up to {largest}")
    return size
