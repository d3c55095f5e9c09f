"""Fitness of a genome of a diffusers transformer: the error of its outputs for recorded calls.

A transformer of diffusers makes images only inside its pipeline, and sampling whole images for each genome would cost
too much. So a genome is measured on calls that were recorded along trajectories of full precision (`qdit calibrate`):
the quantized transformer gets the same arguments, and its outputs are compared with those of full precision. Each call
is one evaluation of the network. The errors of the steps of a trajectory do not add up here, as they do in an image.
"""

import math
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError, DataError, Unsupported
from qdit.core.files import sha256_file
from qdit.core.seeds import Purpose, torch_generator
from qdit.models.generic.loading import load_network
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.weights_files import model_folder
from qdit.quant.batches import Keywords, leaves, run
from qdit.sampling.keyword_file import load_keywords_of
from qdit.search.fitness import Noises, digest, require_chunks
from qdit.search.latency import LatencyModel, latency_at
from qdit.search.layers import LayerQuantizer, SwappableModel
from qdit.search.space import Constraint, Genome, SearchSpace

METRIC = "output_error"
KIND = "trajectory"
"""Kind of the recorded calls."""


@dataclass(frozen=True)
class CallOrder:
    """The order in which recorded calls measure a genome: a permutation that is drawn from the seed."""

    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the order's description as plain JSON."""
        return asdict(self)

    def rows(self, count: int) -> Tensor:
        """Return the indices of `count` calls, in this order."""
        return torch.randperm(count, generator=torch_generator(self.seed, Purpose.INITIAL_NOISE))


class CallFitness:
    """Relative squared error of a genome's outputs on the first n calls: Σ ‖F(c) − F_g(c)‖² / Σ ‖F(c)‖².

    F is the full-precision network, F_g the network quantized with genome g, c the keyword arguments of a call. Lower
    is better. The value is infinite if an output is not finite. Calls come in batches of `chunk`, and n is a multiple
    of `chunk`. `images_sampled` counts the calls on which genomes were computed.
    """

    reference = None

    def __init__(
        self,
        network: DiffusersNetwork,
        space: SearchSpace,
        *,
        calls: Keywords,
        calls_sha256: str,
        order: CallOrder,
        images: int,
        chunk: int,
        quantizer: LayerQuantizer,
    ) -> None:
        self.space, self.protocol, self.images, self.chunk = space, order, images, chunk
        self.swappable = SwappableModel(network, space, quantizer)
        self.calls, self.calls_sha256 = calls, calls_sha256
        self._begin()
        require_chunks(images, chunk, len(calls), "calls")

    def _begin(self) -> None:
        self.images_sampled = 0
        self._exact: list[tuple[list[Tensor], float]] = []
        self._errors: dict[Genome, list[float]] = {}

    def on_noise(self, seed: int) -> "CallFitness":
        """Return this fitness with the order of another seed; both share their quantized layers."""
        other = copy(self)
        other.protocol = replace(self.protocol, seed=seed)
        other._begin()
        return other

    def __call__(self, genome: Genome) -> float:
        """Fitness on all calls of the fitness."""
        return self.on_prefix(genome, self.images)

    def on_prefix(self, genome: Genome, images: int) -> float:
        """Compute the fitness on the first `images` calls. Errors already known for this genome are used again."""
        require_chunks(images, self.chunk, self.images, "calls")
        chunks = images // self.chunk
        errors = self._errors.setdefault(genome, [])
        while len(errors) < chunks and all(map(math.isfinite, errors)):
            errors.append(self._error(genome, len(errors)))
        error = sum(errors[:chunks])
        return error / sum(self._full(chunk)[1] for chunk in range(chunks)) if math.isfinite(error) else math.inf

    def features(self, genome: Genome | None, chunk: int) -> np.ndarray | None:
        """Raise Unsupported: outputs for recorded calls are no images, so they have no features."""
        raise Unsupported("a transformer of diffusers is measured on recorded calls, which have no features")

    def forget(self) -> None:
        """Delete the stored errors of all genomes."""
        self._errors.clear()

    def _batch(self, chunk: int) -> Keywords:
        rows = self.protocol.rows(len(self.calls))
        return self.calls.take(rows[chunk * self.chunk : (chunk + 1) * self.chunk])

    def _full(self, chunk: int) -> tuple[list[Tensor], float]:
        """Full-precision outputs of a batch, and the sum of their squares; computed once."""
        while len(self._exact) <= chunk:
            outputs = self._outputs(self.swappable.full_precision(), len(self._exact))
            squares = sum(float(output.square().sum(dtype=torch.float64)) for output in outputs)
            if not 0 < squares < math.inf:
                raise ConfigError(
                    f"full-precision outputs of the recorded calls have the squared length {squares}, so no genome can"
                    " be compared with them; check the weights and the calls"
                )
            self._exact.append((outputs, squares))
        return self._exact[chunk]

    def _error(self, genome: Genome, chunk: int) -> float:
        """Sum of the squared differences on a batch; not finite if an output is not."""
        exact, _ = self._full(chunk)
        self.images_sampled += self.chunk
        outputs = self._outputs(self.swappable.use(genome), chunk)
        pairs = zip(outputs, exact, strict=True)
        return sum(float((output - full).square().sum(dtype=torch.float64)) for output, full in pairs)

    def _outputs(self, network: DiffusersNetwork, chunk: int) -> list[Tensor]:
        with torch.inference_mode():
            return [leaf.float() for leaf in leaves(run(network, self._batch(chunk))) if isinstance(leaf, Tensor)]

    @cached_property
    def weights_sha256(self) -> str:
        """Sha256 of names, shapes and values of the full-precision network's tensors."""
        return digest(self.swappable.source.state_dict())

    def identity(self) -> dict[str, Any]:
        """Return all that the fitness depends on, except the genome, as a dictionary. It goes into the journal."""
        return {
            "metric": METRIC,
            "weights_sha256": self.weights_sha256,
            "calls_sha256": self.calls_sha256,
            "protocol": self.protocol.to_dict(),
            "images": self.images,
            "chunk": self.chunk,
            "quantizer": self.swappable.quantizer.identity(),
            "code": code_digest("qdit.search.call_fitness"),
        }


@dataclass(frozen=True)
class CallSearchJob:
    """Inputs of a search for a diffusers transformer, as `SearchJob` holds them for our own networks.

    `weights` is the folder of the transformer or of its pipeline, `calls` a calibration file of it. `images` is the
    number of calls that measure a genome.
    """

    weights: Path
    calls: Path
    sizes: tuple[int, ...]
    reference: int
    weight_bits: int
    activation_bits: int
    protocol: CallOrder
    images: int
    chunk: int
    constraint: Constraint = "bitops"
    latency: Path | None = None
    symmetric: bool = False
    device: str = "cpu"

    def modules(self) -> tuple[str, ...]:
        """Return the names of modules that the fitness needs: none."""
        return ()

    def quantizer(self) -> LayerQuantizer:
        """Return the settings with which a layer is quantized: its bits, and whether its codes are symmetric."""
        return LayerQuantizer(self.weight_bits, self.activation_bits, symmetric=self.symmetric)

    def worker(self) -> CallFitness:
        """Build the fitness for a worker process, and let torch use one thread there."""
        torch.set_num_threads(1)
        return self.fitness()

    def noises(self) -> Noises:
        """Build the function from a seed, which decides the order of the calls, to a fitness."""
        return Noises(self.worker())

    def measured_latency(self) -> LatencyModel | None:
        """Load the latency model of the job's file; ConfigError if it was measured with other bits."""
        return latency_at(self.latency, self.weight_bits, self.activation_bits)

    def fitness(self) -> CallFitness:
        """Build the fitness. DataError if the calls are not recorded calls, or belong to other weights."""
        device = torch_device(self.device)
        data = load_keywords_of(self.calls, self.weights)
        if data.kind != KIND:
            raise DataError(f"{self.calls}: holds calibration data of kind {data.kind!r}, a search takes {KIND}")
        network = load_network(model_folder(self.weights)).to(device)
        space = SearchSpace.of(
            network,
            self.sizes,
            self.reference,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            constraint=self.constraint,
            latency=self.measured_latency(),
        )
        return CallFitness(
            network,
            space,
            calls=data.keywords.to(device),
            calls_sha256=sha256_file(self.calls),
            order=self.protocol,
            images=self.images,
            chunk=self.chunk,
            quantizer=self.quantizer(),
        )


def require_calls(kind: str, fresh: int) -> None:
    """Raise Unsupported if this kind of search cannot use recorded calls, or if `fresh` (genomes to remeasure) > 0."""
    if kind == "response":
        raise Unsupported(
            "response: compares features of images, and a transformer of diffusers is measured on recorded calls; take"
            " racing, evolution, random, ilp or hessian"
        )
    if fresh:
        raise Unsupported(
            f"fresh {fresh}: a transformer of diffusers is measured on recorded calls, which have no other"
            " noise; take 0, and compare the images of `qdit pipeline sample`"
        )
