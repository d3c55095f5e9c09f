"""Fitness of a genome: the Fréchet distance of its images, lower is better. All genomes have the same noise.

`fid` compares with a reference, as Algorithm 1 does. `fd_fp` compares with full-precision images of the same noise.
Everything that does not depend on the genome is computed once: noise and labels, the full-precision features, and every
layer quantized with every size (`qdit.search.layers`).
"""

import hashlib
import math
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError
from qdit.core.pixels import UINT8_RULE
from qdit.kernels.simulated import backend
from qdit.metrics.extractor_names import extractor_code
from qdit.metrics.features import Extractor
from qdit.metrics.frechet import Target, distance_to
from qdit.metrics.statistics import Moments
from qdit.models.dit import DiT
from qdit.sampling.batch import chunks_together
from qdit.sampling.guidance import denoiser
from qdit.sampling.images import PIXELS, Decoder
from qdit.sampling.noise import initial_noise, labels, step_noise
from qdit.sampling.protocol import Protocol
from qdit.sampling.samplers import sample
from qdit.sampling.schedule import respaced
from qdit.search.layers import LayerQuantizer, SwappableModel
from qdit.search.space import Genome, SearchSpace

Metric = Literal["fid", "fd_fp"]


class ImageFitness:
    """Function from a genome to the Fréchet distance of its images.

    It is infinite if an image is not finite; lower is better. `decoder` turns outputs of the model into images.
    `reference` holds the moments for FID. Without it the metric is `fd_fp`: the first n images are compared with the
    first n images of full precision. Images come in batches of `chunk`, and n is a multiple of it. `images_sampled`
    counts the sampled images of genomes, not those of full precision.
    """

    def __init__(
        self,
        model: DiT,
        space: SearchSpace,
        *,
        protocol: Protocol,
        images: int,
        chunk: int,
        extractor: Extractor,
        quantizer: LayerQuantizer,
        reference: Moments | None = None,
        decoder: Decoder = PIXELS,
    ) -> None:
        self.space = space
        self.swappable = SwappableModel(model, space, quantizer)
        self.protocol, self.images, self.chunk = protocol, images, chunk
        self.extractor, self.reference, self.decoder = extractor, reference, decoder
        self._reference_target = None if reference is None else Target(reference)
        self._begin()
        self.check_prefix(images)

    def _begin(self) -> None:
        self.images_sampled = 0
        self._starts: list[tuple[Tensor, Tensor]] = []
        self._full: list[np.ndarray] = []
        self._targets: dict[int, Target] = {}
        self._features: dict[Genome, list[np.ndarray | None]] = {}

    def on_noise(self, seed: int) -> "ImageFitness":
        """A copy of this fitness that uses noise and labels of another seed, and the same quantized layers."""
        other = copy(self)
        other.protocol = replace(self.protocol, seed=seed)
        other._begin()
        return other

    @property
    def metric(self) -> Metric:
        """Name of the distance: `fd_fp` (to full precision) or `fid` (to a reference)."""
        return "fd_fp" if self.reference is None else "fid"

    def check_prefix(self, images: int) -> None:
        """Raise ConfigError unless `images` is a multiple of the chunk size, from 2 up to the number of all images."""
        require_chunks(images, self.chunk, self.images)

    def __call__(self, genome: Genome) -> float:
        """Fitness on all images. The stored features of this genome are deleted."""
        value = self.on_prefix(genome, self.images)
        self._features.pop(genome, None)
        return value

    def on_prefix(self, genome: Genome, images: int) -> float:
        """Fitness of a genome on its first `images` images. Images from an earlier call are not sampled again."""
        self.check_prefix(images)
        chunks = images // self.chunk
        kept = self._features.setdefault(genome, [])
        if not any(chunk_features is None for chunk_features in kept):
            kept += self._sampled(genome, range(len(kept), chunks))
        finite = [chunk_features for chunk_features in kept[:chunks] if chunk_features is not None]
        if len(finite) < chunks:
            return math.inf
        return distance_to(self._target(chunks), np.concatenate(finite))

    def features(self, genome: Genome | None, chunk: int) -> np.ndarray | None:
        """Pool features (images, d) of a genome's images in one chunk; of full-precision images if the genome is None.

        The result is None if an image is not finite. Nothing is stored. The chunk may lie beyond the images of the
        fitness.
        """
        return self._sampled(genome, range(chunk, chunk + 1))[0]

    def forget(self) -> None:
        """Delete the stored features of all genomes."""
        self._features.clear()

    def _target(self, chunks: int) -> Target:
        if self._reference_target is not None:
            return self._reference_target
        for chunk_features in self._sampled(None, range(len(self._full), chunks)):
            if chunk_features is None:
                raise ConfigError(
                    "full-precision images hold NaN or infinity, so no genome can be compared with them; check the"
                    " weights"
                )
            self._full.append(chunk_features)
        if chunks not in self._targets:
            self._targets[chunks] = Target.of(np.concatenate(self._full[:chunks]))
        return self._targets[chunks]

    def _sampled(self, genome: Genome | None, chunks: range) -> list[np.ndarray | None]:
        """Pool features of consecutive chunks, up to the first one that is not finite.

        Neighbouring chunks are one batch where this changes no bit (`chunks_together`).
        """
        found: list[np.ndarray | None] = []
        if not chunks:
            return found
        model = self.swappable.full_precision() if genome is None else self.swappable.use(genome)
        together = chunks_together(model, self.chunk) if self.protocol.dtype == "float32" else 1
        for first in range(chunks.start, chunks.stop, together):
            for chunk_features in self._sample(model, range(first, min(first + together, chunks.stop))):
                found.append(chunk_features)
                self.images_sampled += 0 if genome is None else self.chunk
                if chunk_features is None:
                    return found
        return found

    def _sample(self, model: DiT, chunks: range) -> list[np.ndarray | None]:
        """Pool features (chunk, d) of each chunk, all in one batch. None if an image of the chunk is not finite."""
        starts = [self._start(chunk) for chunk in chunks]
        noise, labels = (torch.cat(tensors) for tensors in zip(*starts, strict=True))
        numbers = range(chunks.start * self.chunk, chunks.stop * self.chunk)

        def noise_of(step: int) -> Tensor:
            return step_noise(tuple(noise.shape[1:]), self.protocol.seed, numbers, step).to(noise.device)

        with torch.inference_mode():
            x0 = sample(
                denoiser(model, labels, self.protocol.cfg_scale, dtype=self.protocol.dtype),
                noise,
                respaced(self.protocol.steps),
                step_noise=noise_of if self.protocol.sampler == "ddpm" else None,
            )
        parts = x0.float().split(self.chunk)
        are_finite = [bool(torch.isfinite(part).all()) for part in parts]
        finite = [part for part, is_finite in zip(parts, are_finite, strict=True) if is_finite]
        pool = self.extractor(self.decoder(torch.cat(finite))).pool if finite else np.empty((0, 0))
        rest = iter(np.split(pool, max(1, len(finite))))
        return [next(rest) if is_finite else None for is_finite in are_finite]

    def _numbers(self, chunk: int) -> range:
        return range(chunk * self.chunk, (chunk + 1) * self.chunk)

    def _start(self, chunk: int) -> tuple[Tensor, Tensor]:
        """Noise and labels of a chunk, drawn once."""
        model = self.swappable.model
        device = model.pos_embed.device
        shape = (model.config.in_channels, model.config.input_size, model.config.input_size)
        while len(self._starts) <= chunk:
            numbers, seed = self._numbers(len(self._starts)), self.protocol.seed
            noise = initial_noise(shape, seed, numbers).to(device)
            self._starts.append((noise, labels(model.config.num_classes, seed, numbers).to(device)))
        return self._starts[chunk]

    @cached_property
    def weights_sha256(self) -> str:
        """Digest of names, shapes and values of the full-precision model."""
        return digest(self.swappable.source.state_dict())

    def identity(self) -> dict[str, Any]:
        """Everything that the fitness depends on, except the genome, as a dictionary. It goes into the journal."""
        target: str | None = None
        if self.reference is not None:
            reference = {"mean": self.reference.mean, "covariance": self.reference.covariance}
            target = digest({name: torch.from_numpy(np.asarray(values)) for name, values in reference.items()})
        return {
            "metric": self.metric,
            "weights_sha256": self.weights_sha256,
            "protocol": self.protocol.to_dict(),
            "images": self.images,
            "chunk": self.chunk,
            "quantizer": self.swappable.quantizer.identity(),
            "extractor": {"name": self.extractor.name, "sha256": self.extractor.digest},
            "reference_sha256": target,
            "uint8": UINT8_RULE,
            "backend": backend(),
            "code": code_digest("qdit.search.fitness", *extractor_code(self.extractor.name)),
        }


class OnNoise(Interface):
    """Interface of a fitness that can be computed on the noise of several seeds."""

    def on_noise(self, seed: int) -> "OnNoise": ...

    def on_prefix(self, genome: Genome, images: int) -> float: ...

    def features(self, genome: Genome | None, chunk: int) -> np.ndarray | None: ...

    def forget(self) -> None: ...


class Noises:
    """Fitness of genomes on the noise of several seeds. In place of a genome its functions take (seed, genome).

    All seeds share the same quantized layers. `qdit.search.workers` can run it in several processes.
    """

    def __init__(self, fitness: OnNoise) -> None:
        self.fitness = fitness
        self._by_seed: dict[int, OnNoise] = {}

    def on_prefix(self, what: tuple[int, Genome], images: int) -> float:
        """Fitness of a genome on its first `images` images. `what` is (seed of the noise, genome)."""
        seed, genome = what
        return self._on(seed).on_prefix(genome, images)

    def features(self, what: tuple[int, Genome | None], chunk: int) -> np.ndarray | None:
        """Features of the images in one chunk. `what` is (seed of the noise, genome).

        The genome None means full precision.
        """
        seed, genome = what
        return self._on(seed).features(genome, chunk)

    def _on(self, seed: int) -> OnNoise:
        if seed not in self._by_seed:
            self._by_seed[seed] = self.fitness.on_noise(seed)
        return self._by_seed[seed]

    def forget(self) -> None:
        """Delete the stored features of all genomes and seeds."""
        for fitness in self._by_seed.values():
            fitness.forget()


def require_chunks(images: int, chunk: int, most: int, what: str = "images") -> None:
    """Raise ConfigError unless a number of images is a multiple of the chunk size, at least 2, and at most `most`."""
    if chunk < 1 or images % chunk or not 2 <= images <= most:
        legal = [chunk * n for n in range(1, most // max(chunk, 1) + 1)]
        raise ConfigError(f"{images} {what} in chunks of {chunk}: allowed are {legal} {what}")


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, shapes, types and bytes of tensors."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
