"""Layers of one model, quantized with every group size, and the model in which they can be swapped."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from qdit.kernels.dense import DenseLinear
from qdit.methods.method import FULL_PRECISION_BITS
from qdit.models.dit import DiT
from qdit.models.roles import linear_of, replace
from qdit.quant.activation import DynamicActivation
from qdit.quant.apply import granularity
from qdit.quant.ranges import minmax
from qdit.quant.sites import QuantizedLinear, prepare_inference
from qdit.quant.weight import QuantizedWeight, quantize_weight
from qdit.search.space import Genome, SearchSpace

WeightQuantizer = Callable[[str, Tensor, int], QuantizedWeight]
"""(layer name, weight (out, in), group size) → quantized weight, in the place of rounding to nearest."""


@dataclass(frozen=True)
class LayerQuantizer:
    """How one layer is quantized: weight and input have groups of the same size.

    The range of the input is computed in every forward pass, for each token and group. Weights are rounded to nearest
    unless a function `weights` is given. `symmetric` makes the codes symmetric around zero, as in the released search.
    """

    weight_bits: int
    activation_bits: int
    symmetric: bool = False
    weights: WeightQuantizer | None = None

    def layer(self, name: str, linear: nn.Linear, size: int) -> QuantizedLinear:
        """Make the quantized layer for a linear layer of the full-precision model, with groups of `size` inputs."""
        weight: QuantizedWeight | Tensor = linear.weight.detach()
        if self.weight_bits < FULL_PRECISION_BITS:
            weight = self.round(linear.weight.detach(), size)
            if self.weights is not None:
                weight = self.weights(name, linear.weight.detach(), size)
        activation = None
        if self.activation_bits < FULL_PRECISION_BITS:
            activation = DynamicActivation(bits=self.activation_bits, group_size=size, symmetric=self.symmetric)
        return QuantizedLinear(weight=weight, bias=linear.bias, activation=activation)

    def round(self, weight: Tensor, size: int) -> QuantizedWeight:
        """Round a weight to nearest, with a min-max range for each group of `size` inputs."""
        rule = partial(minmax, symmetric=self.symmetric)
        return quantize_weight(
            weight, bits=self.weight_bits, granularity=granularity(size), ranges=rule, symmetric=self.symmetric
        )

    def identity(self) -> dict[str, Any]:
        """Settings of this quantizer as a dictionary for JSON.

        A function `weights` that the caller gave has no name, so the caller must record it.
        """
        return {
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "symmetric": self.symmetric,
            "weights": "rtn" if self.weights is None else "given",
        }


class SwappableModel:
    """A model in which each layer can be replaced by its quantized form of any group size.

    Each layer is quantized once per size. All layers with all sizes stay in memory, packed. This takes as much memory
    as the packed weights times the number of sizes.
    """

    def __init__(self, model: DiT, space: SearchSpace, quantizer: LayerQuantizer) -> None:
        self.space, self.quantizer = space, quantizer
        self.source = model
        self.model = prepare_inference(deepcopy(model))
        self._exact = {layer.name: self.model.get_submodule(layer.name) for layer in space.layers}
        self._cache: dict[tuple[str, int], nn.Module] = {}

    def full_precision(self) -> DiT:
        """Put the original layers into the model and return it."""
        for name, module in self._exact.items():
            replace(self.model, name, module)
        return self.model

    def use(self, genome: Genome) -> DiT:
        """Put the layers with the genome's group sizes into the model and return it."""
        for name, size in self.space.groups(genome).items():
            replace(self.model, name, self.layer(name, size))
        return self.model

    def layer(self, name: str, size: int) -> nn.Module:
        """The layer `name` quantized with this group size, packed as `prepare_inference` packs it.

        It includes the GELU after the layer where `prepare_inference` includes it.
        """
        if (name, size) not in self._cache:
            layer = self.quantizer.layer(name, linear_of(self.source, name), size)
            exact = self._exact[name]
            gelu = isinstance(exact, DenseLinear) and exact.gelu
            layer.dense = DenseLinear(layer.weight, layer.bias, gelu=gelu)
            self._cache[name, size] = layer.eval()
        return self._cache[name, size]
