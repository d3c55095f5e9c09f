"""The interface of a family of models. The family holds everything that differs between images and clips.

Chunks, sampling, calibration and scoring call a family. None of them needs to know which one it is. The two families
are in `qdit.sampling.images` and `qdit.sampling.clips`. `qdit.sampling.families` chooses one of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import ConfigError
from qdit.sampling.protocol import Sampled
from qdit.sampling.samplers import Correction

Arrays = Mapping[str, np.ndarray]
Predictor = Callable[[Tensor, Tensor], Tensor]
"""(x (N, …), timestep (N,)) → what the sampler is given, after guidance."""
StepNoise = Callable[[int], Tensor]
Text = tuple[Tensor, Tensor]
"""Tokens (N, L, text_width) and their mask (N, L), of N prompts."""
Prompts = Sequence[tuple[str, int]]
"""(prompt, number of the clip among those of the same prompt) of every clip of a run."""

N = TypeVar("N")
C = TypeVar("C")
P = TypeVar("P", bound=Sampled)


class Conditions(Interface):
    """The conditions (labels or prompts) of all samples of a run, by sample index."""

    def tensors(self, samples: range) -> tuple[Tensor, ...]:
        """Condition arguments of the forward pass for these samples, one row each.

        After the last prompt the first follows.
        """
        ...

    def columns(self, samples: range) -> Arrays:
        """The conditions of these samples as arrays of a chunk file."""
        ...


class Decoding(Interface):
    """Interface of a decoder: a function from outputs of the model to uint8 samples on the CPU."""

    def __call__(self, latents: Tensor) -> Tensor: ...

    def sample_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one decoded sample, from the shape of its latents or pixels."""
        ...


@dataclass(frozen=True)
class Source:
    """Files from which a run's conditions and decoder come: prompts, text embeddings and VAE, if there are any.

    `owner` names the checkpoint or weights in errors.
    """

    owner: Path
    prompts: Prompts | None = None
    embeddings: Path | None = None
    vae: Path | None = None


class Family(ABC, Generic[N, C, P]):
    """A family of networks (type N) with configurations (type C), sampled by protocols (type P)."""

    name: ClassVar[str]
    """As files say it: dit or stdit3."""
    unit: ClassVar[str]
    """What its samples are called."""
    model_is: ClassVar[str]
    """What its models are called, with an article."""
    commands: ClassVar[str]
    """Commands that sample it by its protocol."""
    pixels: ClassVar[str]
    """Column of a chunk file that holds the uint8 samples."""
    named: ClassVar[tuple[str, ...]]
    """Columns that hold the conditions of the samples."""
    calibration_tensors: ClassVar[tuple[str, ...]]
    """What a calibration file holds."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Modules that are loaded by name, for digests of code."""
    protocol: type[P]

    def require(self, protocol: Sampled) -> P:
        """Return a protocol of this family unchanged. ConfigError for a protocol of another family."""
        if not isinstance(protocol, self.protocol):
            raise ConfigError(
                f"{self.model_is} model ({self.name}) cannot follow a {type(protocol).__name__}; give a"
                f" {self.protocol.__name__} ({self.commands})"
            )
        return protocol

    @abstractmethod
    def shape(self, config: C, protocol: P) -> tuple[int, ...]:
        """Shape of one sample's latents or pixels."""

    @abstractmethod
    def tokens(self, model: N, protocol: P) -> int:
        """Number of tokens of one sample."""

    @abstractmethod
    def conditions(self, config: C, protocol: P, source: Source) -> Conditions:
        """Conditions of a run's samples. ConfigError or DataError if the sources do not fit the model."""

    @abstractmethod
    def decoder_name(self, vae: Path | None) -> str:
        """Name of a decoder in a protocol: `none`, or the kind of VAE and the digest of its files."""

    @abstractmethod
    def decoder(self, vae: Path | None, config: C, protocol: P, *, device: torch.device) -> Decoding:
        """Load the decoder of a model's output. Without a VAE the output is pixels already.

        Raises CheckpointError for files that are no VAE of this family, and ConfigError for a VAE with other latents.
        """

    @abstractmethod
    def predictor(self, model: N, conditions: tuple[Tensor, ...], protocol: P) -> Predictor:
        """The network as the function (x, timestep) that the sampler calls. Its result includes guidance."""

    @abstractmethod
    def trajectory(
        self,
        predict: Predictor,
        noise: Tensor,
        protocol: P,
        *,
        step_noise: StepNoise | None = None,
        correction: Correction | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Sample from the start noise: yield (step, x_t) from the noisy end down to step 0, then (−1, data)."""

    @abstractmethod
    def calibration_conditions(self, config: C, protocol: P, samples: int, text: Text | None) -> tuple[Tensor, ...]:
        """Labels or texts for `samples` calibration trajectories."""

    @abstractmethod
    def null_conditions(self, model: N, conditions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Conditions of the unconditional branch (no label or no text), as many as the given conditions."""

    @abstractmethod
    def embedded_text(self, config: C, embeddings: Path, count: int) -> Text | None:
        """At most `count` texts, evenly spaced over a file of embeddings. None for a model without text."""

    @abstractmethod
    def stored_conditions(
        self, path: Path, tensors: Mapping[str, Tensor], config: C
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The conditions in a calibration file, and which samples (N,) are unconditional copies.

        DataError if they do not fit the model.
        """

    @abstractmethod
    def kept_tensors(self, conditions: tuple[Tensor, ...], unconditional: Tensor) -> tuple[Tensor, ...]:
        """Tensors that a calibration file holds beside x and timestep."""


AnyFamily = Family[Any, Any, Any]
