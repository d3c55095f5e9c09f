"""Layers of one model, quantized with every group size, and the model in which they can be swapped."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from qdit.kernels.dense import DenseLinear
from qdit.methods.method import FULL_PRECISION_BITS
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import Network
from qdit.models.roles import linear_of, replace
from qdit.quant.activation import DynamicActivation
from qdit.quant.apply import granularity
from qdit.quant.packed import PackedConv, PackedLinear
from qdit.quant.ranges import minmax
from qdit.quant.sites import QuantizedConv, QuantizedLinear, prepare_inference, stored_weight
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
        """Make the quantized layer for a linear of the full-precision model, with groups of `size` inputs.

        The quantized layer of a pointwise convolution is a linear.
        """
        exact = linear.weight.detach().flatten(1)
        weight: QuantizedWeight | Tensor = exact
        if self.weight_bits < FULL_PRECISION_BITS:
            weight = self.round(exact, size)
            if self.weights is not None:
                weight = self.weights(name, exact, size)
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

    Each layer is quantized once per size. All layers with all sizes stay in memory. This takes the number of sizes
    times the weights of these layers: float32 weights, but packed codes for a transformer of diffusers.
    """

    def __init__(self, model: Network, space: SearchSpace, quantizer: LayerQuantizer) -> None:
        self.space, self.quantizer = space, quantizer
        self.source = model
        self.is_generic = isinstance(model, DiffusersNetwork)
        self.model: Any = deepcopy(model) if self.is_generic else prepare_inference(deepcopy(model))
        self._exact = {layer.name: self.model.get_submodule(layer.name) for layer in space.layers}
        self._cache: dict[tuple[str, int], nn.Module] = {}

    def full_precision(self) -> Any:
        """Put the original layers into the model and return it."""
        for name, module in self._exact.items():
            replace(self.model, name, module)
        return self.model

    def use(self, genome: Genome) -> Any:
        """Put the layers with the genome's group sizes into the model and return it."""
        for name, size in self.space.groups(genome).items():
            replace(self.model, name, self.layer(name, size))
        return self.model

    def layer(self, name: str, size: int) -> nn.Module:
        """The layer `name` quantized with this group size, packed as `prepare_inference` packs it.

        It includes the GELU after the layer where `prepare_inference` includes it. The layer of a diffusers transformer
        keeps its weight packed.
        """
        if (name, size) not in self._cache:
            layer = self.quantizer.layer(name, linear_of(self.source, name), size)
            exact = self._exact[name]
            if self.is_generic:
                layer = packed(layer, exact)
            else:
                gelu = isinstance(exact, DenseLinear) and exact.gelu
                layer.dense = DenseLinear(layer.weight, layer.bias, gelu=gelu)
            self._cache[name, size] = layer.eval()
        return self._cache[name, size]


def packed(layer: QuantizedLinear, exact: nn.Module) -> QuantizedLinear:
    """A quantized linear without its float weight, or the convolution that takes the place of `exact`."""
    if isinstance(exact, nn.Conv2d | nn.Conv3d):
        parts: dict[str, Any] = {"bias": layer.bias, "activation": layer.activation, "kernel": exact.kernel_size}
        conv = QuantizedConv(weight=stored_weight(layer), **parts)
        return conv if conv.stored_form is None else PackedConv(conv)
    return layer if layer.stored_form is None else PackedLinear(layer)
