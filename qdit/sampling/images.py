"""The family of images: labels, DDIM or DDPM with guidance, and decoding to uint8. A VAE decodes latents.

The module holds all code that differs from clips (`qdit.sampling.clips`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from qdit.core.errors import ConfigError, DataError
from qdit.core.pixels import to_uint8
from qdit.core.seeds import Purpose, generator
from qdit.models.config import DiTConfig
from qdit.models.dit import DiT
from qdit.models.image_vae import ImageVAE, load_image_vae
from qdit.sampling.family import Arrays, Family, Predictor, Source, StepNoise, Text
from qdit.sampling.guidance import denoiser
from qdit.sampling.noise import labels
from qdit.sampling.precision import CPU, DTYPES
from qdit.sampling.protocol import LabelRule, Protocol, decoder_name
from qdit.sampling.samplers import Correction, trajectory
from qdit.sampling.schedule import respaced

BATCH = 4
"""Latents decoded at a time: a 512×512 image takes the VAE about a gigabyte of activations in half precision."""


@dataclass(frozen=True)
class Decoder:
    """Function that turns x_0, float32 (N, C, L, L) on any device, into uint8 images on the CPU.

    Without a VAE x_0 is pixels already. With a VAE, height and width of an image are a multiple of the latent's (8
    times for Stable Diffusion's VAE), and images are RGB. `BATCH` images are decoded at a time. They are rounded as in
    DiT's sampling script. Raises DataError if a decoded image is not finite.
    """

    vae: ImageVAE | None = None
    dtype: str = "float32"
    device: torch.device = CPU

    def __call__(self, latents: Tensor) -> Tensor:
        return torch.cat([to_uint8(batch) for batch in self.pixels(latents)])

    def sample_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one decoded image, from the shape (C, L, L) of its x_0."""
        channels, factor = (shape[0], 1) if self.vae is None else (3, self.vae.factor)
        return channels * (factor * shape[1]) ** 2

    def pixels(self, x0: Tensor) -> Iterator[Tensor]:
        """Decode x_0 to float32 images on the CPU, a few at a time."""
        if self.vae is None:
            yield x0.float().cpu()
            return
        for latents in x0.split(BATCH):
            with torch.inference_mode():
                images = self.vae(latents.to(self.device, DTYPES[self.dtype])).float().cpu()
            if not torch.isfinite(images).all():
                raise DataError(
                    f"decoded images hold NaN or infinity, their latents (largest {float(latents.abs().max()):.3g}) do"
                    " not; take --dtype float32 if they are of full precision"
                )
            yield images


PIXELS = Decoder()
"""For models that make pixels."""


def load_decoder(vae: Path | None, config: DiTConfig, *, dtype: str, device: torch.device) -> Decoder:
    """Load the decoder for a model's x_0. Without a VAE it is `PIXELS`: x_0 is pixels already.

    Raises CheckpointError for files that are no VAE of DiT, and ConfigError for a VAE with latents of another kind.
    """
    if vae is None:
        return PIXELS
    loaded = load_image_vae(vae)
    if loaded.channels != config.in_channels:
        raise ConfigError(
            f"--vae {vae}: decodes latents of {loaded.channels} channels, the model makes {config.in_channels}; give"
            " the VAE that the model was trained with, or none for a model of pixels"
        )
    return Decoder(loaded.to(device, DTYPES[dtype]), dtype, device)


@dataclass(frozen=True)
class Labels:
    """Labels of a run's images by index: independent and uniform, as in DiT's sampling script, or balanced."""

    classes: int
    seed: int
    rule: LabelRule = "random"

    def tensors(self, samples: range) -> tuple[Tensor, ...]:
        """Labels (N,) of the images with these indices, as the only condition of the forward pass."""
        return (labels(self.classes, self.seed, samples, self.rule),)

    def columns(self, samples: range) -> Arrays:
        """Labels (N,) int64 of the images with these indices, as an array of a chunk file."""
        return {"labels": self.tensors(samples)[0].numpy()}


class ImageFamily(Family[DiT, DiTConfig, Protocol]):
    """The family of DiT: it reads class labels, predicts noise and variance, and makes square latents or pixels."""

    name: ClassVar[str] = "dit"
    unit: ClassVar[str] = "images"
    model_is: ClassVar[str] = "an image"
    commands: ClassVar[str] = "qdit calibrate, qdit sample"
    pixels: ClassVar[str] = "images"
    named: ClassVar[tuple[str, ...]] = ("labels",)
    calibration_tensors: ClassVar[tuple[str, ...]] = ("x", "timestep", "label")
    protocol = Protocol

    def shape(self, config: DiTConfig, protocol: Protocol) -> tuple[int, ...]:
        """Shape of one image's latents or pixels: (C, L, L)."""
        return config.in_channels, config.input_size, config.input_size

    def tokens(self, model: DiT, protocol: Protocol) -> int:
        """Number of patches (tokens) of one image."""
        return model.config.tokens

    def conditions(self, config: DiTConfig, protocol: Protocol, source: Source) -> Labels:
        """Labels of a run's images; ConfigError if prompts or texts are given."""
        if source.prompts is not None or source.embeddings is not None:
            raise ConfigError(
                f"{source.owner}: holds an image model (DiT), which reads no prompts; leave --suite and"
                " --text-embeddings out"
            )
        return Labels(config.num_classes, protocol.seed, protocol.labels)

    def decoder_name(self, vae: Path | None) -> str:
        """Name of a decoder in a protocol: `none`, or AutoencoderKL and the digest of its files."""
        return decoder_name(vae)

    def decoder(self, vae: Path | None, config: DiTConfig, protocol: Protocol, *, device: torch.device) -> Decoder:
        """Load the decoder that turns x_0 into images."""
        return load_decoder(vae, config, dtype=protocol.dtype, device=device)

    def predictor(self, model: DiT, conditions: tuple[Tensor, ...], protocol: Protocol) -> Predictor:
        """Function (x, timestep) → the network's predicted noise (after guidance) and variance."""
        return denoiser(model, conditions[0], protocol.cfg_scale, dtype=protocol.dtype)

    def trajectory(
        self,
        predict: Predictor,
        noise: Tensor,
        protocol: Protocol,
        *,
        step_noise: StepNoise | None = None,
        correction: Correction | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (step, x_t), and last (−1, x_0): by DDPM if `step_noise` is given, else by DDIM."""
        return trajectory(predict, noise, respaced(protocol.steps), step_noise=step_noise, correction=correction)

    def calibration_conditions(
        self, config: DiTConfig, protocol: Protocol, samples: int, text: Text | None
    ) -> tuple[Tensor, ...]:
        """Random labels for `samples` calibration trajectories."""
        draw = generator(protocol.seed, Purpose.CALIBRATION_LABEL)
        return (torch.from_numpy(draw.integers(config.num_classes, size=samples)),)

    def null_conditions(self, model: DiT, conditions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Conditions of the unconditional branch: the null class."""
        return (torch.full_like(conditions[0], model.config.null_class),)

    def embedded_text(self, config: DiTConfig, embeddings: Path, count: int) -> Text | None:
        """None, because an image model reads labels and no text."""
        raise ConfigError(f"--text-embeddings {embeddings}: the weights are of an image model, which reads no text")

    def stored_conditions(
        self, path: Path, tensors: Mapping[str, Tensor], config: DiTConfig
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The labels in a calibration file, and which samples have the null label (unconditional copies)."""
        timestep, label = tensors["timestep"], tensors["label"]
        if not ((0 <= timestep) & (timestep < 1000)).all() or not ((0 <= label) & (label <= config.null_class)).all():
            raise DataError(f"{path}: timesteps must lie in 0…999 and labels in 0…{config.null_class}; calibrate again")
        return (label,), label == config.null_class

    def kept_tensors(self, conditions: tuple[Tensor, ...], unconditional: Tensor) -> tuple[Tensor, ...]:
        """Tensors that a calibration file stores: the labels."""
        return conditions
