"""PTQ4DM: threshold-searched ranges, calibrated at normally distributed timesteps (NDTC).

Numbered details (spec/methods.md §4.4; Shang et al., CVPR 2023):
1. Weights: per output channel, the threshold search of QDrop (100 symmetric ranges, |error|^2.4).
2. Activations: one static range per tensor, the same search on batches of 256, averaged with 0.9. The release places
   quantizers on layer outputs; inputs are the adaptation to DiT. `two_dimensional` also searches the zero point,
   as the release does for asymmetric quantizers.
3. Calibration: timesteps from a normal distribution of mean and deviation 0.4 T, as its script (its code's defaults are
   0.5 T and 0.35 T: calibration kind `ndtc-wide`; the paper's Eq. 15 has a deviation of √(T/2)).
4. `as_released` restores the release's pairs (kind `ndtc-released`): t counts steps from the noisy end, x is what step
   t has made (so one level less noisy), and the network is given t itself as its timestep.
5. Scope `own`: every linear and convolution, the first and last with 8 bits, and the operands of attention, softmax
   outputs with 8 bits. AdaRound is off, as in the authors' script.
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
    """`two_dimensional`: search zero points as well; `as_released`: the release's pairs of x and t (detail 4)."""

    two_dimensional: bool = False
    as_released: bool = False


class Ptq4dm(Method):
    """Post-training quantization on diffusion models."""

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
        """Weights first, then activation ranges of the weight-quantized model."""
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
