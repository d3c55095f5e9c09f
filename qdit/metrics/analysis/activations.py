"""Weights and activations of a full-precision model along its own trajectories, as the papers' figures show them.

There are R roles, D blocks, S steps, N images, F fractions and C channels. These arrays describe each linear of a block
(roles qkv, attn_out, fc1, fc2; inputs of the conditional branch):

    ratio                (R, D)        largest channel salience over the median one, in the middle of the trajectory
    quantiles            (R, D, S, F)  of all input values at each step (Q-DiT Fig. 3), at the fractions in `fractions`
    deviation            (R, D, S)     standard deviation of all input values (Q-DiT Fig. 4)
    sample_deviation     (R, D, S, N)  standard deviation of the input values of each image (Q-DiT's second observation)

The other arrays describe one linear for each role: that of the block with the largest `ratio` (`chosen`, (R,)). Their
names end with the role:

    weight_map, input_map              |w| (out, in) and |x| (tokens, in) of the first image, maxima of cells (Fig. 2)
    salience             (S, C)        largest |x| of each channel at each step (PTQ4DiT Fig. 4)
    weight_salience      (C,)          largest |w| of each input channel (PTQ4DiT Fig. 3)
    weight_output_salience (O,)        largest |w| of each of the O output channels
    activation_error, weight_error     (C,) mean squared rounding errors of 8-bit inputs (one range) and 4-bit weights
                                       (a range for each output), in the middle of the trajectory
    correlation          (S,)          Spearman's ρ of `salience` and `weight_salience`

There are also `roles` (R,), `timesteps` (S,), and `record`: JSON that says what was analyzed. The middle is step S // 2
of the trajectory.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdit.core.affine import fake_quantize
from qdit.core.devices import torch_device
from qdit.core.errors import ConfigError
from qdit.core.files import save_arrays
from qdit.metrics.analysis.trajectory import Followed, Start, follow, inputs_along, start
from qdit.models.dit import DiT
from qdit.models.loading import load_dit, weights_sha256
from qdit.models.roles import Site, linear_of
from qdit.quant.layers import layers
from qdit.quant.quantiles import quantiles
from qdit.quant.ranges import percentile_search
from qdit.quant.salience import activation_salience, rank_correlations, weight_salience
from qdit.sampling.protocol import Protocol

FRACTIONS = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
CELLS = 192
"""Most cells of a map along each side; larger matrices show the maximum of several values in a cell."""

ACTIVATION_BITS, WEIGHT_BITS = 8, 4

Arrays = dict[str, np.ndarray]


@dataclass
class Layer:
    """Statistics of the input of one linear layer; each list has one entry per sampling step."""

    site: Site
    quantiles: list[Tensor] = field(default_factory=list)
    deviation: list[Tensor] = field(default_factory=list)
    sample_deviation: list[Tensor] = field(default_factory=list)
    salience: list[Tensor] = field(default_factory=list)
    middle: Tensor | None = None

    def look(self, x: Tensor) -> None:
        """Record the statistics of the input (N, T, C) of one step."""
        values = x.float()
        self.quantiles.append(quantiles(values.reshape(1, -1), FRACTIONS)[0])
        self.deviation.append(values.std())
        self.sample_deviation.append(values.flatten(1).std(dim=1))
        self.salience.append(activation_salience(values.flatten(0, 1)[None])[0])


@contextmanager
def observed(model: DiT, seen: Mapping[str, Layer]) -> Iterator[None]:
    """Context manager: inside it, each forward pass records the inputs of the linear layers named in `seen`."""

    def hook_of(layer: Layer) -> Any:
        return lambda _module, inputs: layer.look(inputs[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(hook_of(layer)) for name, layer in seen.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def analyze(model: DiT, protocol: Protocol, *, samples: int) -> Arrays:
    """Compute all arrays of the analysis except `record`, from the first `samples` images of the protocol."""
    if samples < 2:
        raise ConfigError(f"samples {samples}: an analysis compares images, it needs at least 2")
    begin = start(model, protocol, samples)
    followed = follow(model, protocol, begin)
    seen = {site.name: Layer(site) for site in layers(model, "common")}
    with observed(model, seen), torch.inference_mode():
        for _, batch in inputs_along(followed, begin):
            model(*batch)
    roles = list(dict.fromkeys(layer.site.role for layer in seen.values()))
    by_role = [[layer for layer in seen.values() if layer.site.role == role] for role in roles]
    middle = len(followed.steps) // 2
    ratio = np.array([[spread(layer.salience[middle]) for layer in row] for row in by_role])
    arrays = {name: stacked(by_role, name) for name in ("quantiles", "deviation", "sample_deviation")}
    arrays |= {"roles": np.array(roles), "ratio": ratio, "chosen": ratio.argmax(axis=1)}
    arrays |= {"timesteps": np.array(followed.timesteps), "fractions": np.array(FRACTIONS)}
    widest_layers = [row[index] for row, index in zip(by_role, arrays["chosen"], strict=True)]
    return arrays | of_chosen(model, widest_layers, followed, begin, middle)


def spread(salience: Tensor) -> float:
    """Largest salience of the channels (C,) divided by their median salience.

    A median of 0 becomes the smallest positive value.
    """
    return float(salience.max() / salience.median().clamp(min=torch.finfo(salience.dtype).tiny))


def stacked(by_role: list[list[Layer]], name: str) -> np.ndarray:
    """Join the lists of this name from all layers into one array (roles, blocks, steps, …)."""
    rows = [torch.stack([torch.stack(getattr(layer, name)) for layer in row]) for row in by_role]
    return torch.stack(rows).cpu().numpy()


def of_chosen(model: DiT, widest_layers: list[Layer], followed: Followed, begin: Start, middle: int) -> Arrays:
    """Arrays about one chosen layer for each role, from one more forward pass in the middle of the trajectory."""
    kept: dict[str, Tensor] = {}

    def hook_of(name: str) -> Any:
        return lambda _module, inputs: kept.update({name: inputs[0].detach()})

    modules = {layer.site.name: linear_of(model, layer.site) for layer in widest_layers}
    handles = [module.register_forward_pre_hook(hook_of(name)) for name, module in modules.items()]
    batch = dict(inputs_along(followed, begin))[middle]
    try:
        with torch.inference_mode():
            model(*batch)
    finally:
        for handle in handles:
            handle.remove()
    collected: Arrays = {}
    for layer in widest_layers:
        name, role = layer.site.name, layer.site.role
        by_name = one_layer(kept[name], modules[name], torch.stack(layer.salience))
        collected |= {f"{key}_{role}": value.float().cpu().numpy() for key, value in by_name.items()}
    return collected


def one_layer(x: Tensor, linear: nn.Linear, salience: Tensor) -> dict[str, Tensor]:
    """Maps, largest values per channel (*saliences*) and rounding errors of one linear with its input x (N, T, C)."""
    weight = linear.weight.detach().float()
    of_weight = weight_salience(weight)
    return {
        "weight_map": pooled(weight),
        "input_map": pooled(x[0].float()),
        "salience": salience,
        "weight_salience": of_weight,
        "weight_output_salience": weight.abs().amax(dim=1),
        "activation_error": rounding_error(x.float().flatten(0, 1), ACTIVATION_BITS, by_row=False),
        "weight_error": rounding_error(weight, WEIGHT_BITS, by_row=True),
        "correlation": rank_correlations(salience, of_weight),
    }


def pooled(matrix: Tensor, cells: int = CELLS) -> Tensor:
    """Shrink |matrix| to at most `cells` rows and columns, by the maximum of each cell."""
    size = (min(matrix.shape[0], cells), min(matrix.shape[1], cells))
    return F.adaptive_max_pool2d(matrix.abs()[None], size)[0]


def rounding_error(matrix: Tensor, bits: int, *, by_row: bool) -> Tensor:
    """Mean squared rounding error of each column: matrix (rows, C) → (C,).

    The range rule is that of PTQ4DiT, with one range for each row if `by_row`, else one range for the matrix.
    """
    scale, zero_point = percentile_search(matrix if by_row else matrix.reshape(1, -1), bits)
    return (fake_quantize(matrix, scale, zero_point, bits) - matrix).square().mean(dim=0)


def analyze_weights_file(weights: Path, out: Path, protocol: Protocol, *, samples: int, device: str = "cpu") -> None:
    """Analyze a file of weights, and write the arrays for the figures about activations and weights."""
    model = load_dit(weights).to(torch_device(device))
    record = {"weights_sha256": weights_sha256(weights), "protocol": protocol.to_dict(), "samples": samples}
    arrays = analyze(model, protocol, samples=samples)
    save_arrays(out, arrays | {"record": np.array(json.dumps(record, sort_keys=True))})
