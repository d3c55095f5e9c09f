"""SmoothQuant: channel factors move large values from the inputs into the weights; then both are rounded.

Numbered details (Xiao et al., ICML 2023; the program mit-han-lab/smoothquant was not run):
1. λ_j = max|X_j|^α / max|W_j|^(1 − α) for every input channel j, α 0.5; the linear sees x / λ and has W · diag(λ).
   Linears with the same input share λ.
2. The layer before absorbs 1 / λ: adaLN rows for qkv and fc1, V rows for the attention output. Before fc2 stands GELU,
   which cannot absorb a factor. There the site divides its input in every forward pass. `online` false leaves such
   inputs as they are.
3. A channel that is always zero, in X or in W, keeps the factor 1.
4. Weights: min-max per output channel, rounded to nearest. The paper has one range per weight tensor.
5. Inputs: dynamic, per token (the paper's O1). `activation` "static" is one calibrated range per tensor (O3).
6. Calibration data are noisy images at uniformly drawn timesteps. The paper calibrates on texts.
7. Products of attention stay in full precision. The paper quantizes them too.
8. Both scopes are the four linears of each block.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from qdit.core.options import CheckedOptions, GroupSize, Probability
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.apply import (
    calibrate_static,
    collect_inputs,
    fitted_log,
    insert_dynamic,
    round_weights,
    site_group_sizes,
)
from qdit.quant.folding import divide_inputs, joint_weight, leaders
from qdit.quant.ranges import minmax
from qdit.quant.salience import weight_salience
from qdit.quant.smoothing import largest, smoothing_factor
from qdit.sampling.calibration import CalibrationSet

BATCH = 32


@dataclass(frozen=True)
class SmoothQuantOptions(CheckedOptions):
    """Options of SmoothQuant.

    With `alpha` 0 all weight columns, with 1 all input channels get the same largest |value|. `group_size` None means
    one range per output channel (weights) and per token (inputs). A static input has one range per tensor with every
    `group_size`.
    """

    alpha: Probability = 0.5
    activation: Literal["dynamic", "static"] = "dynamic"
    group_size: GroupSize | None = None
    online: bool = True


class SmoothQuant(Method):
    """Moves large values from the inputs into the weights by a factor for each channel. Then it rounds both."""

    name = "smoothquant"
    printed = "SmoothQuant"
    citation = """@inproceedings{xiao2023smoothquant,
  title = {{SmoothQuant}: Accurate and Efficient Post-Training Quantization for Large Language Models},
  author = {Xiao, Guangxuan and Lin, Ji and Seznec, Mickael and Wu, Hao and Demouth, Julien and Han, Song},
  booktitle = {ICML},
  year = {2023}
}"""
    calibration = ("uniform",)
    Options = SmoothQuantOptions
    stores_more_than_codes = True
    color = "#7f3c8d"
    marker = "p"
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
        options: SmoothQuantOptions,
    ) -> Quantized:
        """Find the smoothing factors on full-precision inputs. Then quantize inputs and weights."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        data = list(calibration["uniform"].batches(BATCH))
        if min(weight_bits, activation_bits) < FULL_PRECISION_BITS:
            smoothed = [site for site in leaders(model, sites) if options.online or site.fold_source is not None]
            factors = {
                site: smoothing_factor(largest(x), weight_salience(joint_weight(model, site)), options.alpha)
                for site, x in collect_inputs(model, smoothed, data)
            }
            divide_inputs(model, factors)
        if activation_bits < FULL_PRECISION_BITS and options.activation == "static":
            calibrate_static(model, sites, data, bits=activation_bits, rule=minmax)
        elif activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes)
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(model, sites, bits=weight_bits, rule=minmax, group_sizes=sizes)
        return Quantized(model, log=fitted_log(sizes, options.group_size))
