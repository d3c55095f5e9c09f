"""Scores of layers: the loss of each layer at each group size, for the ILP and Hessian-based searches (Table 6).

Both kinds use inputs of the full-precision model. They quantize weight and input of one layer with the same size (as
IGQ-ViT and BRECQ do; Q-DiT released no code for them). A knapsack solver chooses the sizes with the least sum over
layers. A search of kind `racing` can use this sum to guess the fitness of a genome.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.errors import ConfigError
from qdit.core.seeds import Purpose, derive_seed
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, Site, linear_of, matrix_of, select
from qdit.quant.apply import blocks_of
from qdit.quant.batches import rows_in
from qdit.quant.fisher import mean_squares
from qdit.quant.observe import Batch, observe_inputs
from qdit.search.layers import LayerQuantizer
from qdit.search.space import Genome, SearchSpace


def output_scores(
    model: Network, space: SearchSpace, batches: Iterable[Batch], *, quantizer: LayerQuantizer
) -> np.ndarray:
    """Scores (L, S): squared error of layer l's output at size g, s[l, g] = mean over samples of ‖f_l(x) − Q_lg(x)‖².

    The inputs x come from the full-precision model. The data go through the model once for each block; only the layers
    of this block are quantized in memory at that time.
    """
    data, rows = list(batches), row_of(space)
    scores = np.zeros((len(space.layers), len(space.sizes)))
    for stage in blocks_of(searched_sites(model, space)):
        forms = {site.name: quantized_forms(model, site, space, quantizer) for site in stage}

        def look(site: Site, x: Tensor, forms: dict[str, list[nn.Module]] = forms) -> None:
            exact = exact_output(model, site.name, x)
            for column, form in enumerate(forms[site.name]):
                scores[rows[site.name], column] += float((exact - form(x)).square().sum(dtype=torch.float64))

        observe_inputs(model, stage, data, look)
    return scores / samples_in(data)


def hessian_scores(
    model: Network,
    space: SearchSpace,
    batches: Iterable[Batch],
    *,
    quantizer: LayerQuantizer,
    probes: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """Scores (L, S): loss of layer l at size g, s[l, g] = mean over samples of Σ_k E[(Jᵀv)_k²] (z_k − ẑ_k)².

    z = f_l(x) is the layer's exact output and ẑ its output at size g. v are random signs on the model's output. So
    E[(Jᵀv)²] is the diagonal of the Gauss–Newton matrix JᵀJ. It is estimated with `probes` draws of v, new ones for
    every batch. The gradient of KL(FP ‖ FP), which is zero, is never used. The data of a diffusers transformer pass
    once for each block, so that only the layers, inputs and gradients of this block are in memory.
    """
    if probes < 1:
        raise ConfigError(f"probes {probes}: must be at least 1")
    data, rows = list(batches), row_of(space)
    sites = searched_sites(model, space)
    scores = np.zeros((len(space.layers), len(space.sizes)))
    for stage in blocks_of(sites) if isinstance(model, DiffusersNetwork) else [sites]:
        forms = {site.name: quantized_forms(model, site, space, quantizer) for site in stage}
        for number, batch in enumerate(data):
            batch_seed = derive_seed(seed, Purpose.PROBE, number)
            inputs, fisher = fisher_diagonals(model, stage, batch, probes, seed=batch_seed)
            with torch.no_grad():
                for name, x in inputs.items():
                    exact = exact_output(model, name, x)
                    for column, form in enumerate(forms[name]):
                        lost = (fisher[name] * (exact - form(x)).square()).sum(dtype=torch.float64)
                        scores[rows[name], column] += float(lost)
    return scores / samples_in(data)


def fisher_diagonals(
    model: Network, sites: Sequence[Site], batch: Batch, probes: int, *, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two dictionaries by site name: the layer's input (N, T, in), and the mean over draws of v of (Jᵀv)² (N, T, out).

    J is the derivative of the model's output by the layer's output, and v are random signs (`hessian_scores`).
    """
    seeds = [derive_seed(seed, Purpose.PROBE, probe) for probe in range(probes)]
    return mean_squares(model, sites, batch, seeds=seeds)


def predicted_loss(space: SearchSpace, scores: np.ndarray) -> Callable[[Genome], float]:
    """Function from a genome to the sum of its scores over layers, Σ_l scores[l, g_l]."""

    def loss(genome: Genome) -> float:
        return float(scores[np.arange(len(genome)), space.columns(genome)].sum())

    return loss


def searched_sites(model: Network, space: SearchSpace) -> list[Site]:
    """The model's sites whose layers are in the search space."""
    names = {layer.name for layer in space.layers}
    return [site for site in select(model.sites(), roles=CORE_ROLES) if site.name in names]


def quantized_forms(model: Network, site: Site, space: SearchSpace, quantizer: LayerQuantizer) -> list[nn.Module]:
    """The layer of a site, quantized with each group size of the space."""
    return [quantizer.layer(site.name, linear_of(model, site), size) for size in space.sizes]


def exact_output(model: Network, name: str, x: Tensor) -> Tensor:
    """Output (…, out) of the full-precision layer `name` for an input (…, in), whose channels come last.

    Hooks are not called, because a hook may call this.
    """
    return F.linear(x, matrix_of(model, name), linear_of(model, name).bias)


def row_of(space: SearchSpace) -> dict[str, int]:
    """Name of each layer → its row number in the scores."""
    return {layer.name: row for row, layer in enumerate(space.layers)}


def samples_in(data: Sequence[Batch]) -> int:
    """Number of samples in all batches; ConfigError if there are none."""
    count = sum(map(rows_in, data))
    if not count:
        raise ConfigError("found 0 calibration samples, at least 1 is needed; run `qdit calibrate` first")
    return count
