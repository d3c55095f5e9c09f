"""TFMQ-DM: the layers that embed the timestep are reconstructed alone; activation ranges depend on the timestep.

Numbered details (Huang et al., CVPR 2024):
1. Weights: for each output channel, the best of 80 shrunk ranges by |error|^2.4 is taken. Then AdaRound (20,000
   iterations, λ 0.01, β from 20 to 2).
2. The temporal information block (TIB) is the timestep embedding, every block's adaLN and the final adaLN. TIAR
   reconstructs the TIB as a whole, separately from the blocks: the targets are the outputs of all its adaLN linears.
   Its inputs are the timesteps of the schedule, combined with labels and the null label. In an STDiT3 the TIB is the
   timestep and fps embeddings and the shared modulation linear, at the clips' frames per second. AdaRound's regularizer
   covers all learned weights, as in the release. In the release the first linear of the timestep embedding and the
   input of the second stay in full precision (`time_embed="as_released"`).
3. Blocks are reconstructed without the TIB. Only their weights are learned; activations are in full precision.
4. FSC gives every activation quantizer one range per timestep, as in the release (`fsc="all"`). The paper says this of
   the TIB only (`fsc="tib"`); all other quantizers then have one range. `fsc="none"` switches FSC off. Ranges are
   running averages of min and max with factor 0.95, and include zero. A timestep without calibration data takes the
   range of the nearest timestep that has some.
5. Scope `common` is the four linears and the TIB, because the method is mainly about the TIB. Scope `own` adds the
   operands of attention, softmax outputs with 8 bits. The first and last layers stay in full precision, as in the
   release.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.core.options import CheckedOptions, Count, CountOrNone, Matmul, Positive
from qdit.methods.method import FULL_PRECISION_BITS, Method, Quantized, Scope
from qdit.models.dit import DiT
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, select
from qdit.quant.apply import Bits, calibrate_static_running, round_weights
from qdit.quant.finite_set import calibrate_finite_set
from qdit.quant.layers import TEMPORAL_ROLES, operands, site_bits, with_roles
from qdit.quant.observe import Batch
from qdit.quant.ranges import shrink_search
from qdit.quant.reconstruction import block_units, reconstruct, reconstruct_outputs
from qdit.quant.unit_learning import Reconstruction
from qdit.sampling.calibration import CalibrationSet

STEPS, PER_STEP = 20, 256
BATCH, CAPTURE_BATCH = 16, 64
LABELS = 32
"""Labels of TIAR's inputs, besides the null label."""


@dataclass(frozen=True)
class TfmqDmOptions(CheckedOptions):
    """Options of TFMQ-DM. `tiar=False` and `iterations=0` each switch a reconstruction off: that of the TIB, or all.

    `fsc` says which ranges depend on the timestep (detail 4). `time_embed` says which parts of the timestep embedding
    are quantized (detail 2). `matmul` is the number format of the matrix products of learning on a GPU.
    """

    tiar: bool = True
    fsc: Literal["all", "tib", "none"] = "all"
    time_embed: Literal["quantized", "as_released"] = "quantized"
    iterations: CountOrNone = 20_000
    batch: Count = 32
    rate: Positive = 1e-3
    matmul: Matmul = "float32"


class TfmqDm(Method):
    """Reconstructs the timestep embedding separately from the blocks. Activation ranges depend on the timestep."""

    name = "tfmq-dm"
    printed = "TFMQ-DM"
    citation = """@inproceedings{huang2024tfmqdm,
  title = {{TFMQ-DM}: Temporal Feature Maintenance Quantization for Diffusion Models},
  author = {Huang, Yushi and Gong, Ruihao and Liu, Jing and Chen, Tianlong and Liu, Xianglong},
  booktitle = {CVPR},
  year = {2024}
}"""
    calibration = ("per-step",)
    Options = TfmqDmOptions
    learns_rounding = True
    learns_modulation = True
    learns_scales = False
    color = "#009E73"  # green
    marker = "D"
    line = "-."
    minutes = 1440

    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: TfmqDmOptions,
    ) -> Quantized:
        """Quantize the weights of the temporal information block (TIB), then of the blocks.

        Then compute activation ranges.
        """
        if isinstance(model, DiffusersNetwork) and options.tiar and options.iterations and weight_bits < 16:
            raise Unsupported(
                "tfmq-dm: TIAR runs the timestep embedding alone, and a diffusers transformer does not say how; give"
                " tiar=false"
            )
        model, reference = deepcopy(model), deepcopy(model)
        temporal = select(model.sites(), roles=TEMPORAL_ROLES)
        embedding = with_roles(temporal, "time_embed") if options.time_embed == "as_released" else []
        weighted = [site for site in temporal if site not in embedding[:1]]
        core = select(model.sites(), roles=CORE_ROLES)
        data = calibration["per-step"]
        log: dict[str, Any] = {}
        if weight_bits < FULL_PRECISION_BITS:
            config = Reconstruction(
                max(1, options.iterations), options.batch, rounding_rate=options.rate, matmul=options.matmul
            )
            round_weights(model, weighted, bits=weight_bits, rule=shrink_search)
            if options.iterations and options.tiar:
                log["temporal"] = reconstruct_temporal(model, reference, weighted, data, config)
            round_weights(model, core, bits=weight_bits, rule=shrink_search)
            if options.iterations:
                selected = data.spread(STEPS, PER_STEP)
                log["reconstruction"] = reconstruct(
                    model,
                    reference,
                    block_units(core),
                    lambda: selected.batches(CAPTURE_BATCH),
                    config,
                    learn="rounding",
                )
        if activation_bits < FULL_PRECISION_BITS:
            sites = [site for site in temporal if site not in embedding]
            sites += [*core, *(operands(model) if scope == "own" else [])]
            calibrate(model, sites, data, site_bits(sites, activation_bits), options)
        return Quantized(model, log=log)


def reconstruct_temporal(
    model: Network, reference: Network, sites: Sequence[Site], data: CalibrationSet, config: Reconstruction
) -> dict[str, Any]:
    """TIAR: reconstruct the temporal information block.

    The outputs of all its adaLN linears stay near the originals. The data are every timestep of the schedule, each with
    some labels (images) or with the frames per second (clips).
    """
    embedder, seconds = second_inputs(model, data)
    timestep, second = (grid.flatten() for grid in torch.meshgrid(data.schedule, seconds, indexing="ij"))
    projections = [site.name.rpartition(".")[0] for site in with_roles(sites, "adaln", "t_block", "final_adaln")]

    def outputs(network: Network, rows: Tensor) -> Tensor:
        condition = network.get_submodule("t_embedder")(timestep[rows]) + network.get_submodule(embedder)(second[rows])
        return torch.cat([network.get_submodule(name)(condition) for name in projections], dim=1)

    return reconstruct_outputs(model, reference, "temporal", sites, outputs, len(timestep), config)


def second_inputs(model: Network, data: CalibrationSet) -> tuple[str, Tensor]:
    """Name of the layer that embeds labels (images) or frames per second (clips), and the values to embed.

    For images the values are some labels and the null label, for clips the one number of frames per second.
    """
    if isinstance(model, DiT):
        null = torch.tensor([model.config.null_class], device=data.label.device)
        return "y_embedder", torch.cat([data.label.unique()[:LABELS], null]).unique()
    fps, *_ = data.protocol.constants
    return "fps_embedder", torch.tensor([fps], device=data.x.device)


def calibrate(model: Network, sites: Sequence[Site], data: CalibrationSet, bits: Bits, options: TfmqDmOptions) -> None:
    """Give one activation range per timestep to the sites that the option `fsc` names.

    All other sites get one range for the whole trajectory.
    """

    def by_timestep() -> Iterator[tuple[float, Iterator[Batch]]]:
        for step, timestep in enumerate(data.schedule):
            yield timestep.item(), data.at_step(step).batches(BATCH)

    temporal = with_roles(sites, *TEMPORAL_ROLES)
    finite = {"all": list(sites), "tib": temporal, "none": []}[options.fsc]
    calibrate_static_running(model, [site for site in sites if site not in finite], data.batches(BATCH), bits=bits)
    if finite:
        calibrate_finite_set(model, finite, by_timestep(), bits=bits)
