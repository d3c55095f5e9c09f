"""G4W+P4A: weights by GPTQ in groups, activations with PTQ4DM's static ranges. Q-DiT's authors built this baseline.

Numbered details:
1. Weights: GPTQ, asymmetric, in groups of 128 inputs. The printed sizes 520 and 351 MB are exactly those with groups of
   128. GPTQ's Hessians come from full-precision inputs.
2. Activations: one static range for each linear's input. PTQ4DM's threshold search finds it on batches of 256; the
   ranges of the batches are averaged with factor 0.9. The paper does not state the granularity of the activations.
   PTQ4DM itself quantizes layer outputs; here inputs are quantized, because a DiT's four linears need this.
3. Calibration: the activation ranges are computed at PTQ4DM's normally distributed timesteps. GPTQ uses images of whole
   sampling trajectories, as Q-DiT does.
4. Scope `own` also quantizes the weights of the adaLN linears, as Q-DiT's released GPTQ does. In an STDiT3 these are
   the weights of the shared modulation linear.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from qdit.core.options import CheckedOptions, GroupSize
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, select
from qdit.quant.apply import calibrate_static_threshold, fitted_log, gptq_weights, site_group_sizes
from qdit.quant.layers import MODULATION_ROLES
from qdit.sampling.calibration import CalibrationSet

HESSIAN_BATCH = 32
ACTIVATION_BATCH = 256


@dataclass(frozen=True)
class G4wP4aOptions(CheckedOptions):
    """Options of G4W+P4A. `group_size` is that of the weights; None means one range for each output channel."""

    group_size: GroupSize | None = 128


class G4wP4a(Method):
    """Quantizes weights by GPTQ in groups, and activations with PTQ4DM's static ranges."""

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
        """Quantize the weights by GPTQ with full-precision inputs.

        Then compute static activation ranges on the model with quantized weights.
        """
        model = deepcopy(model)
        core = select(model.sites(), roles=CORE_ROLES)
        weighted = core if scope == "common" else select(model.sites(), roles=(*CORE_ROLES, *MODULATION_ROLES))
        log: dict[str, Any] = {}
        if weight_bits < FULL_PRECISION_BITS:
            sizes = site_group_sizes(model, weighted, options.group_size)
            batches = calibration["trajectory"].batches(HESSIAN_BATCH)
            log = fitted_log(sizes, options.group_size)
            log |= gptq_weights(model, weighted, batches, bits=weight_bits, group_sizes=sizes, sequential=False)
        if activation_bits < FULL_PRECISION_BITS:
            batches = calibration["ndtc"].batches(ACTIVATION_BATCH)
            calibrate_static_threshold(model, core, batches, bits=activation_bits)
        return Quantized(model, log=log)
