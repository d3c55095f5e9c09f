"""The search space: one group size per layer, under a budget (Q-DiT §3.3, Algorithm 1).

The budget is B(g) = Σ_l M_l (b_w b_a + c / g_l) ≤ B(all = reference). M_l is the number of multiply-adds of layer l per
token, and c is the cost of rescaling one group. The paper writes B(g) < N_bitops and defines neither side. For fixed
bits our condition is Σ_l M_l / g_l ≤ Σ_l M_l / reference: no more scales and zero points than the uniform reference
has. There are two other constraints. `mean_group` is the rule of the released program: the plain mean of the group
sizes is at least the reference. `latency` uses times measured on one machine: Σ_l t_l(g_l) ≤ Σ_l t_l(reference).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, get_args

from qdit.core.errors import ConfigError
from qdit.models.network import Network
from qdit.models.roles import CORE_ROLES, linear_of, select
from qdit.search.latency import LatencyModel

Genome = tuple[int, ...]
"""Group size of every layer, in the order of the layers."""

Constraint = Literal["bitops", "mean_group", "latency"]

RESCALE_COST = 512
"""c: bit operations of rescaling one group's sum, a 32-bit integer times a 16-bit scale."""

TIME_UNITS = 20_000
"""A budget of time is kept in this many units, to which the time of every layer is rounded."""

STEEPEST = 700.0
"""Largest tilt of the random draws; e^−700 is still a number."""


@dataclass(frozen=True)
class Layer:
    """A linear layer: its name and its numbers of inputs and outputs."""

    name: str
    inputs: int
    outputs: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the layer: (inputs, outputs)."""
        return self.inputs, self.outputs

    @property
    def macs(self) -> int:
        """Number of multiply-adds of the layer for one token."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class SearchSpace:
    """Search space of group sizes: layers, sizes that every layer may have, and the budget that `reference` gives.

    The constraint `latency` needs a `latency` model with every layer and every size, also the reference. Raises
    ConfigError for sizes that do not divide a layer's inputs, and for a budget that no genome meets.
    """

    layers: tuple[Layer, ...]
    sizes: tuple[int, ...]
    reference: int
    weight_bits: int = 4
    activation_bits: int = 8
    constraint: Constraint = "bitops"
    latency: LatencyModel | None = None

    def __post_init__(self) -> None:
        if twice := sorted({size for size in self.sizes if self.sizes.count(size) > 1}):
            raise ConfigError(f"group sizes {list(self.sizes)}: size {twice[0]} is there twice; give each size once")
        object.__setattr__(self, "sizes", tuple(sorted(self.sizes)))
        if not self.layers or not self.sizes:
            raise ConfigError(
                f"{len(self.layers)} layers and {len(self.sizes)} group sizes: at least 1 of each is needed"
            )
        if self.constraint not in get_args(Constraint):
            raise ConfigError(f"constraint {self.constraint!r}: allowed are {', '.join(get_args(Constraint))}")
        legal = divisors(math.gcd(*(layer.inputs for layer in self.layers)))
        if wrong := sorted({*self.sizes, self.reference} - set(legal)):
            raise ConfigError(
                f"group sizes {wrong} do not divide the inputs of every layer; legal: {legal}; take one of these"
            )
        if (self.constraint == "latency") != (self.latency is not None):
            raise ConfigError(
                f"constraint {self.constraint}: {'a' if self.latency else 'no'} latency model is given;"
                " only constraint latency has one, and needs one"
            )
        if self.constraint == "latency" and self.reference not in self.sizes:
            raise ConfigError(
                f"reference {self.reference} is not one of the sizes {list(self.sizes)}: with measured times a larger"
                " group may be slower, so the reference must be a size that a layer may have"
            )
        if self.reference > self.sizes[-1]:
            raise ConfigError(
                f"budget of uniform group size {self.reference} cannot be met with sizes {list(self.sizes)}: even all"
                f" {self.sizes[-1]} costs more; legal references: {[g for g in legal if g <= self.sizes[-1]]}"
            )

    @classmethod
    def of(cls, model: Network, sizes: Sequence[int], reference: int, **options: Any) -> Self:
        """The search space of a model: the core linears of every block, in the order in which data pass them.

        A DiT has four in each block. In a transformer of diffusers a pointwise convolution counts as a linear.
        """
        sites = select(model.sites(), roles=CORE_ROLES)
        shapes = [(site.name, linear_of(model, site).weight.shape) for site in sites]
        layers = tuple(Layer(name, inputs=shape[1], outputs=shape[0]) for name, shape in shapes)
        return cls(layers, tuple(sizes), reference, **options)

    def uniform(self, size: int) -> Genome:
        """The genome that has this size in every layer."""
        return (size,) * len(self.layers)

    @property
    def start(self) -> Genome:
        """The uniform reference genome. If the reference is not an allowed size, the next larger size is used."""
        return self.uniform(next(size for size in self.sizes if size >= self.reference))

    @cached_property
    def _units(self) -> tuple[tuple[tuple[int, ...], ...], int]:
        """(costs[layer][size], limit) in the largest integer unit that all costs are multiples of."""
        if self.constraint == "bitops":
            common = math.lcm(*self.sizes, self.reference)
            costs = [[layer.macs * (common // size) for size in self.sizes] for layer in self.layers]
            limit = sum(layer.macs * (common // self.reference) for layer in self.layers)
        elif self.latency is not None:
            unit = self.seconds(self.uniform(self.reference)) / TIME_UNITS
            costs = [
                [round(self.latency.seconds(*layer.shape, size) / unit) for size in self.sizes] for layer in self.layers
            ]
            limit = sum(row[self.sizes.index(self.reference)] for row in costs)
        else:
            costs = [[self.sizes[-1] - size for size in self.sizes] for _ in self.layers]
            limit = (self.sizes[-1] - self.reference) * len(self.layers)
        unit = math.gcd(*(cost for row in costs for cost in row)) or 1
        return tuple(tuple(cost // unit for cost in row) for row in costs), limit // unit

    @property
    def costs(self) -> tuple[tuple[int, ...], ...]:
        """Cost of each layer (row) at each group size (column), as integers. `limit` is the budget in the same unit."""
        return self._units[0]

    @property
    def limit(self) -> int:
        """The budget, in the integer unit of `costs`."""
        return self._units[1]

    def within(self, genome: Genome) -> bool:
        """Whether a genome is within the budget. The comparison uses integers, so it is exact."""
        columns = self.columns(genome)
        return sum(row[column] for row, column in zip(self.costs, columns, strict=True)) <= self.limit

    def columns(self, genome: Genome) -> list[int]:
        """Position of each layer's group size in `sizes`. ConfigError for a genome that is not of this space."""
        if len(genome) != len(self.layers) or not set(genome) <= set(self.sizes):
            raise ConfigError(
                f"genome of {len(genome)} sizes {sorted(set(genome))}: allowed are {len(self.layers)} sizes,"
                f" each one of {list(self.sizes)}"
            )
        return [self.sizes.index(size) for size in genome]

    def budget(self, genome: Genome) -> float:
        """Cost of a genome: seconds with the constraint `latency`, else bit operations per token."""
        return self.bitops(genome) if self.latency is None else self.seconds(genome)

    @property
    def budget_limit(self) -> float:
        """Cost of the uniform reference size, in the unit of `budget`."""
        return self.budget(self.uniform(self.reference))

    def seconds(self, genome: Genome) -> float:
        """Sum of the measured seconds of all layers with the genome's sizes; ConfigError without a latency model."""
        if self.latency is None:
            raise ConfigError(
                f"constraint {self.constraint}: no latency model is given, so times are unknown; give one"
            )
        pairs = zip(self.layers, genome, strict=True)
        return self.latency.total((*layer.shape, size) for layer, size in pairs)

    def bitops(self, genome: Genome) -> float:
        """B(g) = Σ_l M_l (b_w b_a + c / g_l): bit operations of all layers per token."""
        products = self.weight_bits * self.activation_bits
        pairs = zip(self.layers, genome, strict=True)
        return sum(layer.macs * (products + RESCALE_COST / size) for layer, size in pairs)

    def harmonic_mean(self, genome: Genome) -> float:
        """Σ M / Σ (M / g): the uniform group size that would give the same number of scales as this genome."""
        total = sum(layer.macs for layer in self.layers)
        return total / sum(layer.macs / size for layer, size in zip(self.layers, genome, strict=True))

    @cached_property
    def odds(self) -> tuple[float, ...]:
        """Probability of each size for the layers of a random genome: proportional to exp(−λ · price of the size).

        λ ≥ 0 is the smallest value whose expected cost is within the budget. Of all distributions with this expected
        cost, this one has the largest entropy. Uniform draws (λ = 0, as in the released program) almost never meet a
        budget in bit operations: 0 of 18,600 for DiT-XL/2.
        """
        if len(self.sizes) == 1:
            return (1.0,)
        price, target = [self._price(size) for size in self.sizes], self._price(self.reference)
        spread = max(price) - min(price)
        if spread == 0:
            return (1.0,) * len(self.sizes)
        prices = [(value - min(price)) / spread for value in price]

        def tilted(tilt: float) -> list[float]:
            return [math.exp(-tilt * value) for value in prices]

        def too_dear(tilt: float) -> bool:
            odds = tilted(tilt)
            mean = sum(weight * value for weight, value in zip(odds, prices, strict=True)) / sum(odds)
            return mean > (target - min(price)) / spread

        low, high = 0.0, STEEPEST
        if not too_dear(low):
            return tuple(tilted(low))
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if too_dear(middle) else (low, middle)
        return tuple(tilted(high))

    def _price(self, size: int) -> float:
        """Average cost of a size over the layers, in any unit."""
        if self.constraint == "mean_group":
            return -float(size)
        return 1 / size if self.latency is None else self.seconds(self.uniform(size))

    def random(self, rng: random.Random) -> Genome:
        """Draw a random genome. About half of the drawn genomes are within the budget."""
        return tuple(rng.choices(self.sizes, self.odds, k=len(self.layers)))

    def groups(self, genome: Genome) -> dict[str, int]:
        """The genome as a dictionary: name of each layer → its group size."""
        return {layer.name: size for layer, size in zip(self.layers, genome, strict=True)}

    def genome(self, groups: Mapping[str, int]) -> Genome:
        """The genome of a dictionary from layer names to group sizes (the inverse of `groups`)."""
        return tuple(groups[layer.name] for layer in self.layers)

    def identity(self) -> dict[str, Any]:
        """Everything that defines the space, as a dictionary for JSON."""
        return {
            "layers": [[layer.name, layer.inputs, layer.outputs] for layer in self.layers],
            "sizes": list(self.sizes),
            "reference": self.reference,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "constraint": self.constraint,
            **({} if self.latency is None else {"latency_sha256": self.latency.sha256}),
        }


def divisors(number: int) -> list[int]:
    """All divisors of a number, ascending."""
    return [g for g in range(1, number + 1) if number % g == 0]
