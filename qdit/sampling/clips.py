"""The family of clips: prompts, rectified flow with guidance, and decoding to uint8 by Open-Sora's VAE.

Clip i shows its prompt. Its noise depends only on (root seed, i). Models of moving digits make pixels and read words.
Full-size models make latents and read the tokens of a text encoder, which are computed once for all runs
(`qdit.models.text_encoder`). The module holds all code that differs from images (`qdit.sampling.images`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import require_finite
from qdit.core.pixels import to_uint8
from qdit.models.config import STDiT3Config
from qdit.models.stdit3 import STDiT3
from qdit.models.text_embeddings import TextEmbeddings, load_embeddings
from qdit.models.vae_files import video_vae_sha256
from qdit.models.video_vae import VideoVAE, load_video_vae
from qdit.sampling.family import Arrays, Family, Predictor, Prompts, Source, StepNoise, Text
from qdit.sampling.flow_protocol import FlowProtocol, clip_size
from qdit.sampling.precision import CPU, DTYPES
from qdit.sampling.prompts import Texts, check_sources, load_texts
from qdit.sampling.protocol import NO_DECODER
from qdit.sampling.rectified_flow import flow_trajectory, guided_velocity
from qdit.sampling.samplers import Correction
from qdit.sampling.words import WORDS_MODULE


@dataclass(frozen=True)
class ClipDecoder:
    """Function that turns outputs of a model, float32 (N, C, T, H, W), into uint8 clips (N, 3, frames, height, width).

    The input may be on any device; the clips are on the CPU. With a VAE one clip is decoded at a time. It has `frames`
    frames, because latents do not show this number. DataError if a clip is not finite.
    """

    vae: VideoVAE | None = None
    frames: int = 0
    dtype: str = "float32"
    device: torch.device = CPU

    def __call__(self, latents: Tensor) -> Tensor:
        if self.vae is None:
            return to_uint8(latents)
        return torch.cat([self.decoded(self.vae, clip) for clip in latents.split(1)])

    def decoded(self, vae: VideoVAE, latents: Tensor) -> Tensor:
        """Decode one clip's latents with the VAE to uint8."""
        with torch.inference_mode():
            pixels = vae.decode(latents.to(self.device, DTYPES[self.dtype]), self.frames).float().cpu()
        if not torch.isfinite(pixels).all():
            raise DataError(
                f"decoded clips hold NaN or infinity, their latents (largest {float(latents.abs().max()):.3g}) do not;"
                " take --dtype bfloat16 or float32 if they are of full precision"
            )
        return to_uint8(pixels)

    def sample_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one decoded clip, from the shape (C, T, H, W) of its latents or pixels."""
        size = shape[1], shape[2], shape[3]
        frames, rows, columns = size if self.vae is None else self.vae.config.pixel_size(self.frames, size)
        return 3 * frames * rows * columns


CLIP_PIXELS = ClipDecoder()
"""For models that make pixels."""


def video_decoder_name(vae: Path | None) -> str:
    """Name of a decoder in a protocol: `none`, or the kind of VAE and the digest of its files."""
    return NO_DECODER if vae is None else f"OpenSoraVAE sha256:{video_vae_sha256(vae)}"


def load_video_decoder(
    vae: Path | None, config: STDiT3Config, protocol: FlowProtocol, *, device: torch.device
) -> ClipDecoder:
    """Load the decoder for a model's output under a protocol. Without a VAE it is `CLIP_PIXELS`: the output is pixels.

    Raises CheckpointError for files that are no video VAE, and ConfigError for a VAE with latents of another kind or
    size.
    """
    if vae is None:
        return CLIP_PIXELS
    loaded = load_video_vae(vae)
    vae_config, size = loaded.config, clip_size(config, protocol)
    expected = vae_config.latent_size(protocol.frames, protocol.height, protocol.width)
    if vae_config.temporal.channels != config.in_channels or expected != size:
        raise ConfigError(
            f"--vae {vae}: a clip of {protocol.frames}×{protocol.height}×{protocol.width} has latents of"
            f" {vae_config.temporal.channels} channels and {expected}, the model makes {config.in_channels} and {size};"
            " give the VAE that the model was trained with"
        )
    return ClipDecoder(loaded.to(device, DTYPES[protocol.dtype]), protocol.frames, protocol.dtype, device)


@dataclass(frozen=True)
class Prompted:
    """Prompts of the clips of a run, by index, as tokens and masks. After the last prompt comes the first one again."""

    prompts: Prompts
    texts: Texts

    def tensors(self, samples: range) -> tuple[Tensor, ...]:
        """Text tokens (N, L, text_width) and masks (N, L) of the clips with these indices."""
        return self.texts([self.prompts[clip % len(self.prompts)][0] for clip in samples])

    def columns(self, samples: range) -> Arrays:
        """Prompt and number of each clip (N,), as arrays of a chunk file."""
        texts, numbers = zip(*(self.prompts[clip] for clip in samples), strict=True)
        return {"prompts": np.array(texts), "numbers": np.array(numbers)}


def spread_prompts(embeddings: TextEmbeddings, count: int) -> Text:
    """Tokens and masks of `count` prompts of a file (or all), evenly spaced: a suite lists its prompts by dimension."""
    prompt_indices = (
        np.linspace(0, len(embeddings.prompts) - 1, min(count, len(embeddings.prompts))).round().astype(int)
    )
    return embeddings.batch([embeddings.prompts[index] for index in prompt_indices])


class ClipFamily(Family[STDiT3, STDiT3Config, FlowProtocol]):
    """The family of STDiT3: it reads prompts, predicts velocities, and makes latents or pixels of clips."""

    name: ClassVar[str] = "stdit3"
    unit: ClassVar[str] = "clips"
    model_is: ClassVar[str] = "a video"
    commands: ClassVar[str] = "qdit calibrate, qdit sample"
    pixels: ClassVar[str] = "frames"
    named: ClassVar[tuple[str, ...]] = ("prompts", "numbers")
    calibration_tensors: ClassVar[tuple[str, ...]] = ("x", "timestep", "text", "mask", "unconditional")
    modules: ClassVar[tuple[str, ...]] = (WORDS_MODULE,)
    protocol = FlowProtocol

    def shape(self, config: STDiT3Config, protocol: FlowProtocol) -> tuple[int, ...]:
        """Shape of one clip's latents or pixels: (C, T, H, W)."""
        return config.in_channels, *clip_size(config, protocol)

    def tokens(self, model: STDiT3, protocol: FlowProtocol) -> int:
        """Number of patches (tokens) of one clip."""
        return prod(model.grid(torch.Size(self.shape(model.config, protocol)[1:])))

    def conditions(self, config: STDiT3Config, protocol: FlowProtocol, source: Source) -> Prompted:
        """The run's prompts as text inputs. The model must know all words of them, or the embeddings must hold them."""
        if not source.prompts:
            raise ConfigError(f"{source.owner}: holds a video model (STDiT3), found no prompts; name a suite of them")
        check_sources(source.owner, config, text=source.embeddings, vae=source.vae)
        return Prompted(source.prompts, load_texts(source.embeddings, config, [text for text, _ in source.prompts]))

    def decoder_name(self, vae: Path | None) -> str:
        """Name of a decoder in a protocol: `none`, or OpenSoraVAE and the digest of its files."""
        return video_decoder_name(vae)

    def decoder(
        self, vae: Path | None, config: STDiT3Config, protocol: FlowProtocol, *, device: torch.device
    ) -> ClipDecoder:
        """Load the decoder that turns the model's output into clips."""
        return load_video_decoder(vae, config, protocol, device=device)

    def predictor(self, model: STDiT3, conditions: tuple[Tensor, ...], protocol: FlowProtocol) -> Predictor:
        """Function (x, timestep) → the network's velocity after guidance."""
        return guided_velocity(model, conditions[0], conditions[1], protocol)

    def trajectory(
        self,
        predict: Predictor,
        noise: Tensor,
        protocol: FlowProtocol,
        *,
        step_noise: StepNoise | None = None,
        correction: Correction | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (step, x_t) along the Euler steps of the rectified flow, and last (−1, data). No step adds noise."""
        return flow_trajectory(predict, noise, protocol.timesteps, correction=correction)

    def calibration_conditions(
        self, config: STDiT3Config, protocol: FlowProtocol, samples: int, text: Text | None
    ) -> tuple[Tensor, ...]:
        """Text inputs of `samples` calibration trajectories: the given prompts, one after the other.

        After the last prompt they begin again.
        """
        if text is None or len(text[0]) == 0:
            raise ConfigError("calibration of a video model: found no prompts, needs the text of at least one")
        if (width := text[0].shape[2]) != config.text_width:
            raise ConfigError(
                f"calibration: texts are {width} wide, the model takes {config.text_width}; give the tokens of its"
                " own text encoder (--text-embeddings), or none for a model of moving digits"
            )
        rows = torch.arange(samples) % len(text[0])
        return text[0][rows], text[1][rows].bool()

    def null_conditions(self, model: STDiT3, conditions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Conditions of the unconditional branch: the model's tokens for no text, with the masks of the prompts."""
        return model.null_text(*conditions[0].shape[:2]).detach().cpu(), conditions[1]

    def embedded_text(self, config: STDiT3Config, embeddings: Path, count: int) -> Text | None:
        """Texts of `count` prompts, evenly spaced over a file of embeddings."""
        return spread_prompts(load_embeddings(embeddings, width=config.text_width, most=config.text_tokens), count)

    def stored_conditions(
        self, path: Path, tensors: Mapping[str, Tensor], config: STDiT3Config
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Texts and masks in a calibration file, and which samples are unconditional copies."""
        timestep, text, mask = (tensors[name] for name in ("timestep", "text", "mask"))
        require_finite(f"{path}: text", text)
        if text.shape[2:] != (config.text_width,) or mask.shape != text.shape[:2] or not mask.any(dim=1).all():
            raise DataError(
                f"{path}: text has shape {tuple(text.shape)}, the model takes (N, L, {config.text_width}) with a mask"
                " of at least one token each; calibrate again for this model"
            )
        if not ((0 < timestep) & (timestep <= 1000)).all():
            raise DataError(f"{path}: timesteps must lie in 0…1000, 0 excluded; calibrate again")
        return (text, mask.bool()), tensors["unconditional"].bool()

    def kept_tensors(self, conditions: tuple[Tensor, ...], unconditional: Tensor) -> tuple[Tensor, ...]:
        """Tensors that a calibration file stores: texts, masks, and which samples are unconditional copies."""
        return *conditions, unconditional
