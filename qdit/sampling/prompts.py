"""Text inputs of video models: word vectors for the models of moving digits, encoder tokens for models of latents."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_file
from qdit.models.config import STDiT3Config
from qdit.models.text_embeddings import load_embeddings
from qdit.sampling.words import WORDS_MODULE

Texts = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
"""Prompts → tokens (N, L, text_width) float32 and their mask (N, L), true at valid tokens."""


def words(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokens for the words of prompts about moving digits; DataError for unknown words."""
    module = importlib.import_module(WORDS_MODULE)
    text, mask = module.encode(tuple(map(module.parse_prompt, prompts)))
    return text, mask.bool()


def makes_latents(config: STDiT3Config) -> bool:
    """Whether the model makes latents, so that a VAE must decode its clips."""
    return config.pixels_per_cell != 1 or config.in_channels != 3


def check_sources(where: Path, config: STDiT3Config, *, text: Path | None, vae: Path | None) -> None:
    """Raise ConfigError unless a model of latents has text embeddings and a VAE, and a model of pixels has neither."""
    files = {"--text-embeddings": text, "--vae": vae}
    if makes_latents(config) and (missing := [name for name, path in files.items() if path is None]):
        raise ConfigError(
            f"{where}: makes latents of {config.in_channels} channels and reads the tokens of a text encoder; give"
            f" {' and '.join(missing)}"
        )
    if not makes_latents(config) and (superfluous := [name for name, path in files.items() if path is not None]):
        raise ConfigError(
            f"{' and '.join(superfluous)}: {where} makes pixels and reads words about moving digits; leave"
            f" {'it' if len(superfluous) == 1 else 'them'} out"
        )


def load_texts(embeddings: Path | None, config: STDiT3Config, prompts: Sequence[str]) -> Texts:
    """Load the text inputs of a model for these prompts.

    DataError if the file lacks a prompt or was made by another text encoder.
    """
    if embeddings is None:
        return words
    texts = load_embeddings(embeddings, width=config.text_width, most=config.text_tokens)
    try:
        for prompt in dict.fromkeys(prompts):
            texts.of(prompt)
    except DataError as problem:
        raise DataError(f"{embeddings}: {problem}") from None
    return texts.batch


def texts_identity(embeddings: Path | None) -> str | None:
    """Digest of the text embeddings, for a run's origin; None for models that read words."""
    if embeddings is None:
        return None
    if not embeddings.is_file():
        raise DataError(f"{embeddings}: no such file; qdit video embed writes the embeddings of a suite's prompts")
    return sha256_file(embeddings)
