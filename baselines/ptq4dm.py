"""PTQ4DM: a threshold search finds the ranges; calibration timesteps are normally distributed (NDTC).

Numbered details (Shang et al., CVPR 2023):
1. Weights: one range per output channel, from the threshold search of QDrop (100 symmetric ranges, |error|^2.4).
2. Activations: one static range per tensor. The same search runs on batches of 256; the ranges of the batches are
   averaged with factor 0.9. The release puts quantizers on layer outputs. Here they are on inputs, as DiT's layers need
   it. `two_dimensional` also searches the zero point, as the release does for asymmetric quantizers.
3. Calibration: timesteps have a normal distribution with mean and standard deviation 0.4 T, as in its script. The
   defaults of its code are 0.5 T and 0.35 T (calibration kind `ndtc-wide`). The paper's Eq. 15 has the deviation
   √(T/2).
4. `as_released` restores the release's pairs of image x and timestep t (calibration kind `ndtc-released`). There t
   counts steps from the noisy end, and x is the output of step t, so x is one step less noisy. The release still gives
   the network t as its timestep.
5. Scope `own` quantizes every linear and convolution, the first and the last with 8 bits. It also quantizes the
   operands of attention, softmax outputs with 8 bits. AdaRound is off, as in the authors' script.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from qdit.core.options import CheckedOptions
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.quant.apply import calibrate_static_threshold, round_weights
from qdit.quant.layers import layers, operands, site_bits
from qdit.quant.ranges import threshold_search
from qdit.sampling.calibration import CalibrationSet

ACTIVATION_BATCH = 256
EDGE_BITS = 8


@dataclass(frozen=True)
class Ptq4dmOptions(CheckedOptions):
    """Options of PTQ4DM. `two_dimensional` also searches zero points.

    `as_released` takes the release's pairs of image and timestep (detail 4).
    """

    two_dimensional: bool = False
    as_released: bool = False


class Ptq4dm(Method):
    """Searches static ranges. The calibration data have normally distributed timesteps."""

    name = "ptq4dm"
    printed = "PTQ4DM"
    citation = """@inproceedings{shang2023ptq4dm,
  title = {Post-training Quantization on Diffusion Models},
  author = {Shang, Yuzhang and Yuan, Zhihang and Xie, Bin and Wu, Bingzhe and Yan, Yan},
  booktitle = {CVPR},
  year = {2023}
}"""
    calibration = ("ndtc", "ndtc-released")
    calibration_unused = (("ndtc", "as_released", True), ("ndtc-released", "as_released", False))
    Options = Ptq4dmOptions
    common_weights_are_core = True
    color = "#E69F00"  # orange
    marker = "s"
    line = "--"
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
        options: Ptq4dmOptions,
    ) -> Quantized:
        """Quantize the weights first. Then compute the activation ranges on the model with quantized weights."""
        model = deepcopy(model)
        weighted = layers(model, scope)
        if weight_bits < FULL_PRECISION_BITS:
            round_weights(
                model, weighted, bits=site_bits(weighted, weight_bits, edges=EDGE_BITS), rule=threshold_search
            )
        if activation_bits < FULL_PRECISION_BITS:
            data = calibration["ndtc-released" if options.as_released else "ndtc"]
            sites = weighted if scope == "common" else [*weighted, *operands(model)]
            calibrate_static_threshold(
                model,
                sites,
                data.batches(ACTIVATION_BATCH),
                bits=site_bits(sites, activation_bits, edges=EDGE_BITS),
                two_dimensional=options.two_dimensional,
            )
        return Quantized(model)
