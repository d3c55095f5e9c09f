"""Fitness of an allocation of group sizes (a genome) for a video model: Fréchet distance of the clips that it gives.

All genomes have the same noise. Q-DiT searches the group sizes of STDiT3 by FVD on 100 clips. Here the features come
from mini-VBench's clip network. `mfvd` compares with clips of held-out digits. `fd_fp` compares with full-precision
clips of the same noise and prompts. The budget counts the cost of every layer for one token, as for images. So it
limits the number of scales. It ignores that the layer for keys and values of the prompt computes fewer tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError
from qdit.core.pixels import to_uint8
from qdit.metrics.features import Features, Images
from qdit.metrics.statistics import Moments, moments
from qdit.metrics.vbench.i3d import I3d
from qdit.mini.data.moving_digits import draw_scenario, show
from qdit.mini.data.moving_digits_prompts import Scenario, encode
from qdit.mini.vbench.observation import BATCH, Observer, load_observer, require_clips
from qdit.models.loading import load_model
from qdit.models.stdit3 import STDiT3
from qdit.sampling.batch import sample_clips
from qdit.sampling.flow_protocol import FlowProtocol
from qdit.search.fitness import ImageFitness, Noises, digest
from qdit.search.layers import LayerQuantizer
from qdit.search.space import Constraint, SearchSpace

PROMPTS_SEED, REAL_SEED = 37, 38
"""Seeds of the prompts and of the real clips. No suite has them. Prompt i is the same for every noise."""
REAL_CLIPS = 256
I3D = "i3d"
"""Name of the extractor of FVD."""

Prompted = Callable[[Sequence[int]], tuple[Tensor, Tensor]]
"""Numbers of clips → tokens (N, L, text_width) of their prompts and the mask (N, L)."""


def moving_digits_prompts(clips: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token vectors and mask of a random prompt about moving digits for each clip number, drawn as in training."""
    text, mask = encode(tuple(scenarios_of(clips)))
    return text, mask.bool()


def scenarios_of(clips: Sequence[int], *, seed: int = PROMPTS_SEED) -> list[Scenario]:
    """Random scenarios of the clips with these numbers."""
    return [draw_scenario(seed, clip) for clip in clips]


class ClipExtractor:
    """Extractor that computes features of clips uint8 (N, 3, T, H, W), with the interface of an image extractor.

    All three kinds of features of the result are the same array, and only `pool` is used.
    """

    classes_are_labels = False

    def __init__(self, name: str, digest: str, features: Callable[[Tensor], np.ndarray]) -> None:
        self.name, self.digest, self.features = name, digest, features

    def __call__(self, images: Images) -> Features:
        """(N, d) as `pool`."""
        pool = self.features(torch.as_tensor(images))
        return Features(pool, pool, pool)


def mini_extractor(observer: Observer) -> ClipExtractor:
    """Extractor that uses the clip network of mini-VBench. The Fréchet distance of its features is mFVD."""
    return ClipExtractor("mini-vbench", observer.digest, partial(mini_features, observer))


def mini_features(observer: Observer, clips: Tensor) -> np.ndarray:
    """Features (N, 96) of clips, as `clip_features` gives them. Only the clip network runs."""
    require_clips(clips)
    with torch.inference_mode():
        parts = [observer.network.clips(batch.float() / 127.5 - 1).feature for batch in clips.split(BATCH)]
    return torch.cat(parts).double().numpy()


def i3d_extractor(network: I3d) -> ClipExtractor:
    """Extractor that uses I3D. The Fréchet distance of its features is FVD. Clips need at least ten frames."""

    def features(clips: Tensor) -> np.ndarray:
        return network(iter(clips.permute(0, 2, 3, 4, 1).contiguous().numpy()))

    return ClipExtractor(I3D, network.sha256, features)


class VideoFitness(ImageFitness):
    """Fitness of genomes of a video model: Fréchet distance of the first n clips. See also `ImageFitness`.

    `images` and `images_sampled` count clips here. `prompts` gives the text of a clip by its number. `decode` turns
    outputs of the model into uint8 clips. By default it takes them as pixels; for latents give a VAE's decoder.
    """

    protocol: FlowProtocol  # type: ignore[assignment]

    def __init__(
        self,
        model: STDiT3,
        space: SearchSpace,
        *,
        protocol: FlowProtocol,
        images: int,
        chunk: int,
        extractor: ClipExtractor,
        quantizer: LayerQuantizer,
        reference: Moments | None = None,
        prompts: Prompted = moving_digits_prompts,
        decode: Callable[[Tensor], Tensor] = to_uint8,
    ) -> None:
        self.prompts, self.decode = prompts, decode
        super().__init__(
            cast(Any, model),
            space,
            protocol=cast(Any, protocol),
            images=images,
            chunk=chunk,
            extractor=extractor,
            quantizer=quantizer,
            reference=reference,
        )

    def _sample(self, model: Any, chunks: range) -> list[np.ndarray | None]:
        """Features (chunk, d) of each chunk, None if a clip is not finite. Each chunk is a batch of its own."""
        return [self._clips(model, self._numbers(chunk)) for chunk in chunks]

    def _clips(self, model: Any, clips: range) -> np.ndarray | None:
        """Features of one batch of clips, None if one is not finite."""
        text, mask = self.prompts(clips)
        sampled = sample_clips(model, self.protocol, text, mask, clips)
        return self.extractor(self.decode(sampled)).pool if torch.isfinite(sampled).all() else None

    def identity(self) -> dict[str, Any]:
        """Everything that the fitness depends on: as for images, plus the prompts and the metric."""
        text, mask = self.prompts(range(self.images))
        shown = {"prompts_sha256": digest({"text": text, "mask": mask})}
        named = {"metric": "fvd" if self.extractor.name == I3D else "mfvd"} if self.reference is not None else {}
        return super().identity() | shown | named | {"code": code_digest("qdit.mini.video_fitness")}


@dataclass(frozen=True)
class VideoSearchJob:
    """Inputs of a search of group sizes for a video model, like `SearchJob`. `metric` is `fd_fp` or `mfvd`.

    `instruments` is the file with mini-VBench's networks.
    """

    weights: Path
    sizes: tuple[int, ...]
    reference: int
    weight_bits: int
    activation_bits: int
    protocol: FlowProtocol
    images: int
    chunk: int
    instruments: Path
    metric: str = "fd_fp"
    constraint: Constraint = "bitops"
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.metric not in ("fd_fp", "mfvd"):
            raise ConfigError(f"metric {self.metric!r}: allowed for a video model are fd_fp, mfvd")

    def modules(self) -> tuple[str, ...]:
        """Modules that the fitness loads by name, for code digests: none."""
        return ()

    def quantizer(self) -> LayerQuantizer:
        """The function that quantizes one layer with a given group size."""
        return LayerQuantizer(self.weight_bits, self.activation_bits, symmetric=self.symmetric)

    def worker(self) -> VideoFitness:
        """Make the fitness for a worker process, which uses one thread."""
        torch.set_num_threads(1)
        return self.fitness()

    def noises(self) -> Noises:
        """Make the fitness as a function of the noise seed."""
        return Noises(self.worker())

    def fitness(self) -> VideoFitness:
        """Make the fitness. ConfigError if the weights are not those of a video model of RGB pixels."""
        model = load_model(self.weights)
        if not isinstance(model, STDiT3) or model.config.pixels_per_cell != 1 or model.config.in_channels != 3:
            raise ConfigError(
                f"{self.weights}: is not a video model of RGB pixels, for which this search is; for latents make a"
                " VideoFitness with a `decode` (docs/vbench.md)"
            )
        space = SearchSpace.of(
            cast(Any, model),
            self.sizes,
            self.reference,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            constraint=self.constraint,
        )
        observer = load_observer(self.instruments)
        return VideoFitness(
            model,
            space,
            protocol=self.protocol,
            images=self.images,
            chunk=self.chunk,
            extractor=mini_extractor(observer),
            quantizer=self.quantizer(),
            reference=real_moments(observer) if self.metric == "mfvd" else None,
        )


def real_moments(observer: Observer, *, clips: int = REAL_CLIPS) -> Moments:
    """Mean and covariance of the features of `clips` clips of held-out digits."""
    real = show(scenarios_of(range(clips), seed=REAL_SEED), "held_out", seed=REAL_SEED)
    return moments(mini_features(observer, real.frames))
