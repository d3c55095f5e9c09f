"""RTN: weights are rounded to nearest, activations have min-max ranges. The first rows of Q-DiT's Table 4 are RTN.

Numbered details:
1. Weights: asymmetric min-max per output channel, or per group of `group_size` input channels.
2. Static activations: min-max per tensor, or per group of the tensor. The ranges of calibration batches of 16 are
   combined by a moving average with factor 0.9.
3. Dynamic activations: min-max per token, or per group of a token, computed in every forward pass.
4. Both scopes are the four linears of each block, because Q-DiT's released RTN quantizes nothing else.
5. By default, a range always contains zero. The release has ranges that need not contain zero (`include_zero=False`). A
   group whose values all have the same sign then collapses to one value.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Literal

from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.apply import calibrate_static_minmax, fitted_log, insert_dynamic, round_weights, site_group_sizes
from qdit.quant.ranges import minmax
from qdit.sampling.calibration import CalibrationSet

CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class RtnOptions(CheckedOptions):
    """Options of RTN.

    `group_size` None means one range per output channel (weights), per tensor (static) or token (dynamic).
    """

    group_size: GroupSize | None = None
    activation: Literal["static", "dynamic"] = "static"
    include_zero: bool = True


class Rtn(Method):
    """Rounds weights to nearest. Activations have min-max ranges."""

    name = "rtn"
    printed = "RTN"
    citation = """@inproceedings{chen2025qdit,
  title = {Q-DiT: Accurate Post-Training Quantization for Diffusion Transformers},
  author = {Chen, Lei and Meng, Yuan and Tang, Chen and Ma, Xinzhu and Jiang, Jingyan and Wang, Xin and
            Wang, Zhi and Zhu, Wenwu},
  booktitle = {CVPR},
  year = {2025},
  note = {RTN row of Table 4}
}"""
    calibration = ("trajectory",)
    calibration_unused = (("trajectory", "activation", "dynamic"),)
    Options = RtnOptions
    common_weights_are_core = True
    color = "#5d6670"  # grey
    marker = "x"
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
        options: RtnOptions,
    ) -> Quantized:
        """Round the weights to nearest. Then quantize the inputs of the same linears with static or dynamic ranges."""
        model = deepcopy(model)
        sites = select(model.sites(), roles=CORE_ROLES)
        sizes = site_group_sizes(model, sites, options.group_size)
        if activation_bits < FULL_PRECISION_BITS and options.activation == "static":
            batches = calibration["trajectory"].batches(CALIBRATION_BATCH)
            calibrate_static_minmax(model, sites, batches, bits=activation_bits, group_sizes=sizes)
        elif activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(model, sites, bits=activation_bits, group_sizes=sizes, include_zero=options.include_zero)
        if weight_bits < FULL_PRECISION_BITS:
            rule = partial(minmax, include_zero=options.include_zero)
            round_weights(model, sites, bits=weight_bits, rule=rule, group_sizes=sizes)
        return Quantized(model, log=fitted_log(sizes, options.group_size))
