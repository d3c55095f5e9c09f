"""Q-Diffusion: a search finds ranges; then the rounding of the weights and the activation scales are learned.

Both are learned for one block after the other.

Numbered details (Li et al., ICCV 2023):
1. Weights: for each output channel, the search tries 80 ranges, each smaller by 1 % of the min-max range than the one
   before. It takes the range with the smallest sum of |error|^2.4. Then AdaRound learns the rounding block by block,
   with activations in full precision: 20,000 iterations, batch 32, λ 0.01, β from 20 to 2, warm-up 0.2.
2. Activations: the same search runs per tensor on 64 samples. Then scales are learned block by block with a quarter of
   the iterations, learning rate 4e-4 and the loss |error|^2.4. The release can also take ranges from running
   statistics. This suite does not.
3. Calibration: images at evenly spaced steps of the sampling trajectory (20 × 256 in the release).
4. Q-Diffusion splits concatenated shortcuts. A DiT has none.
5. Scope `own` quantizes every linear and convolution, and the operands of attention, softmax outputs with 8 bits. The
   paper keeps 8 bits in the first and last layer; the release does not (`edges="as_released"`).
6. Under scope `own`, layers outside the blocks are reconstructed too, in the order of the network, as in the release.
   The final layer of a DiT counts as a block. `outside="none"` rounds these layers to nearest.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from qdit.core.options import CheckedOptions, Count, CountOrNone, Matmul, Outside, Positive
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.network import Network
from qdit.models.roles import Site
from qdit.quant.apply import calibrate_static, round_weights
from qdit.quant.layers import EDGE_ROLES, layers, operands, site_bits
from qdit.quant.ranges import shrink_search
from qdit.quant.reconstruction import reconstruct
from qdit.quant.unit_learning import Reconstruction
from qdit.quant.units import units_of
from qdit.sampling.calibration import CalibrationSet

STEPS, PER_STEP = 20, 256
INITIAL_SAMPLES = 64
BATCH = 64
EDGE_BITS = 8


@dataclass(frozen=True)
class QDiffusionOptions(CheckedOptions):
    """Options of Q-Diffusion.

    `iterations`, `batch` and `rate` (learning rate) are those of learned rounding of one block. With 0 iterations
    weights are rounded to nearest and scales come from the search. `edges` says whether the first and last layer keep 8
    bits. `outside` says which layers outside the blocks are reconstructed (scope `own`). `matmul` is the number format
    of the matrix products of learning on a GPU.
    """

    iterations: CountOrNone = 20_000
    batch: Count = 32
    rate: Positive = 1e-3
    edges: Literal["8-bit", "as_released"] = "8-bit"
    outside: Outside = "network-order"
    matmul: Matmul = "float32"


class QDiffusion(Method):
    """Searches ranges, then learns the rounding of weights and the scales of activations block by block."""

    name = "q-diffusion"
    printed = "Q-Diffusion"
    citation = """@inproceedings{li2023qdiffusion,
  title = {{Q-Diffusion}: Quantizing Diffusion Models},
  author = {Li, Xiuyu and Liu, Yijiang and Lian, Long and Yang, Huanrui and Dong, Zhen and Kang, Daniel and
            Zhang, Shanghang and Keutzer, Kurt},
  booktitle = {ICCV},
  year = {2023}
}"""
    calibration = ("per-step",)
    Options = QDiffusionOptions
    learns_rounding = True
    color = "#56B4E9"  # sky
    marker = "<"
    line = ":"
    minutes = 1440

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: QDiffusionOptions,
    ) -> Quantized:
        """Learn the rounding of the weights block by block, then the scales of the activations."""
        return learned(
            model,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            scope=scope,
            data=calibration["per-step"],
            options=options,
        )


def learned(
    model: Network,
    *,
    weight_bits: int,
    activation_bits: int,
    scope: Scope,
    data: CalibrationSet,
    options: QDiffusionOptions,
    as_ptqd: bool = False,
) -> Quantized:
    """Return a copy of the model whose weights have learned rounding and whose activations have learned scales.

    `as_ptqd` is the form of PTQD's program. It has one range per weight tensor instead of one per output channel. The
    operands of attention are not quantized. The first and last layer are not reconstructed.
    """
    model, reference = deepcopy(model), deepcopy(model)
    weighted, data = layers(model, scope), data.spread(STEPS, PER_STEP)
    edges = EDGE_BITS if options.edges == "8-bit" else None
    log = {}
    if weight_bits < FULL_PRECISION_BITS:
        bits = site_bits(weighted, weight_bits, edges=edges)
        round_weights(model, weighted, bits=bits, rule=shrink_search, per_tensor=as_ptqd)
        if options.iterations:
            config = Reconstruction(
                options.iterations, options.batch, rounding_rate=options.rate, matmul=options.matmul
            )
            units = units_of(unless_edges(weighted, as_ptqd), options.outside)
            log["reconstruction"] = reconstruct(
                model, reference, units, lambda: data.batches(BATCH), config, learn="rounding"
            )
    if activation_bits < FULL_PRECISION_BITS:
        sites = [*weighted, *operands(model)] if scope == "own" and not as_ptqd else weighted
        initial = data.scattered(INITIAL_SAMPLES)
        bits = site_bits(sites, activation_bits, edges=edges)
        calibrate_static(model, sites, initial.batches(BATCH), bits=bits, rule=shrink_search)
        if options.iterations:
            config = Reconstruction(
                max(1, options.iterations // 4), options.batch, scale_rate=4e-4, power=2.4, matmul=options.matmul
            )
            units = units_of(unless_edges(sites, as_ptqd), options.outside)
            log["scales"] = reconstruct(model, reference, units, lambda: data.batches(BATCH), config, learn="scales")
    return Quantized(model, log=log)


def unless_edges(sites: Sequence[Site], leave_out: bool) -> list[Site]:
    """Sites that are reconstructed: all of them, or with `leave_out` all except the first and the last layer."""
    return [site for site in sites if not (leave_out and site.role in EDGE_ROLES)]
