"""The inputs of a search, as files and numbers. Every process builds the same fitness from them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from qdit.core.devices import torch_device
from qdit.metrics.extractor_names import extractor_code
from qdit.metrics.extractors import load_extractor
from qdit.metrics.reference import load_reference
from qdit.models.loading import load_dit
from qdit.sampling.images import load_decoder
from qdit.sampling.protocol import Protocol
from qdit.search.fitness import ImageFitness, Noises
from qdit.search.latency import LatencyModel, latency_at
from qdit.search.layers import LayerQuantizer
from qdit.search.space import Constraint, SearchSpace


@dataclass(frozen=True)
class SearchJob:
    """The inputs of a search: weights, group sizes, bits, sampling protocol, extractor and reference.

    Without `reference_file` the metric is FD-FP, else FID. `latency` is the file of measured times, if the constraint
    is `latency`. `vae` decodes the output of the model; it is the protocol's `decoder`. `device` (`cpu` or `cuda:N`) is
    where all processes compute.
    """

    weights: Path
    sizes: tuple[int, ...]
    reference: int
    weight_bits: int
    activation_bits: int
    protocol: Protocol
    images: int
    chunk: int
    extractor: str
    extractor_weights: Path
    reference_file: Path | None = None
    constraint: Constraint = "bitops"
    latency: Path | None = None
    symmetric: bool = False
    vae: Path | None = None
    device: str = "cpu"

    def modules(self) -> tuple[str, ...]:
        """Modules that the fitness loads by name, so that a digest of its code can include them."""
        return extractor_code(self.extractor)

    def quantizer(self) -> LayerQuantizer:
        """The object that quantizes a layer with the bits of this search."""
        return LayerQuantizer(self.weight_bits, self.activation_bits, symmetric=self.symmetric)

    def worker(self) -> ImageFitness:
        """Make the fitness for a worker process, which uses one thread."""
        torch.set_num_threads(1)
        return self.fitness()

    def noises(self) -> Noises:
        """Make a fitness for a worker process that takes the seed of the noise beside each genome."""
        return Noises(self.worker())

    def measured_latency(self) -> LatencyModel | None:
        """Read the latency model of this search, if it has one; ConfigError if it was measured with other bits."""
        return latency_at(self.latency, self.weight_bits, self.activation_bits)

    def fitness(self) -> ImageFitness:
        """Load the model and make the fitness.

        It also has the search space (`space`) and the model (`swappable.source`).
        """
        device = torch_device(self.device)
        model = load_dit(self.weights).to(device)
        space = SearchSpace.of(
            model,
            self.sizes,
            self.reference,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            constraint=self.constraint,
            latency=self.measured_latency(),
        )
        return ImageFitness(
            model,
            space,
            protocol=self.protocol,
            images=self.images,
            chunk=self.chunk,
            extractor=load_extractor(self.extractor, self.extractor_weights, device=self.device),
            quantizer=self.quantizer(),
            reference=None if self.reference_file is None else load_reference(self.reference_file).pool,
            decoder=load_decoder(self.vae, model.config, dtype=self.protocol.dtype, device=device),
        )
