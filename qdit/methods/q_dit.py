"""Q-DiT: weights and activations are quantized in groups. Activation ranges are dynamic; GPTQ rounds the weights.

Numbered details (Chen et al., CVPR 2025):
1. The four linears of each block are quantized. Weights and inputs of a layer share one group size (paper §5.1). It
   comes from `group_size`, or layer by layer from an allocation that a search found.
2. Activations: min-max for each token and group, computed in every forward pass (Eq. 7–8). The paper says
   "sample-wise"; the released code does it per token. `sharing="sample"` is the paper's text.
3. Weights: GPTQ block by block, on inputs that are already quantized, with 256 trajectory samples in batches of 32. The
   released code gives every layer the first layer's group size; here each layer has its own.
4. Ranges include zero. In the released rule they need not, but the zero point is clamped. So a group whose values have
   one sign collapses to one value there. `include_zero=False` is the released rule.
5. GPTQ computes 128 columns as one block. If a group begins inside a block, its scale comes from weights that do not
   have the corrections of this block yet, as in the release. `stale_groups=False` takes the corrected weights.
6. `rounding="nearest"` rounds the weights to nearest in place of GPTQ. Searches and Q-DiT's Tables 4 and 6 use it.
7. Scope `common`: the four linears. Scope `own`: also the weights of the adaLN linears, as in the release with GPTQ.
8. The video code was not released. Here the seven linears of each STDiT3 block are quantized. In scope `own` the shared
   modulation linear takes the place of adaLN.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.activation import Sharing
from qdit.quant.apply import fitted_log, gptq_weights, insert_dynamic, round_weights, site_group_sizes
from qdit.quant.layers import MODULATION_ROLES
from qdit.quant.ranges import minmax
from qdit.sampling.calibration import CalibrationSet

HESSIAN_BATCH = 32


@dataclass(frozen=True)
class QDitOptions(CheckedOptions):
    """Options of Q-DiT. `allocation` (layer → group size) replaces `group_size` for the four linears of each block."""

    group_size: GroupSize | None = 128
    allocation: Mapping[str, GroupSize] | None = None
    sharing: Sharing = "token"
    include_zero: bool = True
    stale_groups: bool = True
    rounding: Literal["gptq", "nearest"] = "gptq"


class QDit(Method):
    """Q-DiT with group sizes that are given in its options. The search for group sizes is a separate step."""

    name = "q-dit"
    printed = "Q-DiT"
    citation = """@inproceedings{chen2025qdit,
  title = {Q-DiT: Accurate Post-Training Quantization for Diffusion Transformers},
  author = {Chen, Lei and Meng, Yuan and Tang, Chen and Ma, Xinzhu and Jiang, Jingyan and Wang, Xin and
            Wang, Zhi and Zhu, Wenwu},
  booktitle = {CVPR},
  year = {2025}
}"""
    calibration = ("trajectory",)
    calibration_unused = (("trajectory", "rounding", "nearest"),)
    Options = QDitOptions
    common_weights_are_core = True
    color = "#D55E00"  # vermillion
    marker = "o"
    emphasized = True
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
        options: QDitOptions,
    ) -> Quantized:
        """First insert layers that quantize their inputs; then run GPTQ on the inputs that these layers see."""
        model = deepcopy(model)
        core = select(model.sites(), roles=CORE_ROLES)
        extra = [] if scope == "common" else select(model.sites(), roles=MODULATION_ROLES)
        sizes = site_group_sizes(model, core, options.group_size, options.allocation)
        log: dict[str, Any] = fitted_log(sizes, options.group_size, options.allocation)
        sizes |= site_group_sizes(model, extra, options.group_size)
        if activation_bits < FULL_PRECISION_BITS:
            insert_dynamic(
                model,
                core,
                bits=activation_bits,
                group_sizes=sizes,
                sharing=options.sharing,
                include_zero=options.include_zero,
            )
        if weight_bits < FULL_PRECISION_BITS and options.rounding == "nearest":
            rule = partial(minmax, include_zero=options.include_zero)
            round_weights(model, [*core, *extra], bits=weight_bits, rule=rule, group_sizes=sizes)
        elif weight_bits < FULL_PRECISION_BITS:
            log |= gptq_weights(
                model,
                [*core, *extra],
                calibration["trajectory"].batches(HESSIAN_BATCH),
                bits=weight_bits,
                group_sizes=sizes,
                stale_groups=options.stale_groups,
            )
        return Quantized(model, log=log)
