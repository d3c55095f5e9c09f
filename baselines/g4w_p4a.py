"""G4W+P4A: GPTQ group weights with PTQ4DM's static activations, the baseline that Q-DiT's authors built.

Numbered details (spec/methods.md §4.5, §4.4):
1. Weights: GPTQ, asymmetric, groups of 128 inputs (the printed sizes 520 and 351 MB hold exactly that metadata);
   Hessians from full-precision inputs. The granularity of the activations is not stated in the paper.
2. Activations: one static range per tensor of each linear's input, PTQ4DM's threshold search on batches of 256
   averaged with 0.9. PTQ4DM itself quantizes layer outputs; inputs are the adaptation to DiT's four linears.
3. Calibration of the activations uses PTQ4DM's normally distributed timesteps; that of GPTQ Q-DiT's trajectories.
4. Scope `own` adds the adaLN linears (STDiT3: the shared modulation linear), weights only, as Q-DiT's released GPTQ
   does.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.allocation import layer_group_sizes
from qdit.quant.apply import calibrate_static_threshold, gptq_weights, input_widths
from qdit.quant.layers import MODULATION_ROLES
from qdit.sampling.calibration import CalibrationSet

HESSIAN_BATCH = 32
ACTIVATION_BATCH = 256


@dataclass(frozen=True)
class G4wP4aOptions(CheckedOptions):
    """`group_size` of the weights; None is per output channel."""

    group_size: GroupSize | None = 128


class G4wP4a(Method):
    """GPTQ for weights and PTQ4DM for activations."""

    name = "g4w+p4a"
    printed = "G4W+P4A"
    citation = """@inproceedings{frantar2023gptq,
  title = {{GPTQ}: Accurate Post-Training Quantization for Generative Pre-trained Transformers},
  author = {Frantar, Elias and Ashkboos, Saleh and Hoefler, Torsten and Alistarh, Dan},
  booktitle = {ICLR},
  year = {2023}
}
@inproceedings{shang2023ptq4dm,
  title = {Post-training Quantization on Diffusion Models},
  author = {Shang, Yuzhang and Yuan, Zhihang and Xie, Bin and Wu, Bingzhe and Yan, Yan},
  booktitle = {CVPR},
  year = {2023}
}"""
    calibration = ("trajectory", "ndtc")
    Options = G4wP4aOptions
    common_weights_are_core = True
    color = "#0072B2"  # blue
    marker = "P"
    line = "-."
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
        options: G4wP4aOptions,
    ) -> Quantized:
        """GPTQ on full-precision inputs, then static ranges on the weight-quantized model."""
        model = deepcopy(model)
        core = select(model.sites(), roles=CORE_ROLES)
        weighted = core if scope == "common" else select(model.sites(), roles=(*CORE_ROLES, *MODULATION_ROLES))
        log: dict[str, list[str]] = {}
        if weight_bits < FULL_PRECISION_BITS:
            sizes = layer_group_sizes(input_widths(model, weighted), options.group_size, None)
            batches = calibration["trajectory"].batches(HESSIAN_BATCH)
            log = gptq_weights(model, weighted, batches, bits=weight_bits, group_sizes=sizes, sequential=False)
        if activation_bits < FULL_PRECISION_BITS:
            batches = calibration["ndtc"].batches(ACTIVATION_BATCH)
            calibrate_static_threshold(model, core, batches, bits=activation_bits)
        return Quantized(model, log=log)
