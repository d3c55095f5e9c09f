"""Text embeddings of all prompts of a suite in one safetensors file. With it, sampling needs no text encoder.

`tokens` holds the valid tokens of all prompts, one prompt after the other. `lengths` holds the number of tokens of each
prompt. The metadata holds the prompts and the origin of the embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qdit.core.errors import DataError, did_you_mean
from qdit.core.files import load_tensors, require_finite, save_tensors

KIND = "text embeddings"


@dataclass(frozen=True)
class TextEmbeddings:
    """Embeddings of prompts. `tokens` (Σ lengths, text_width) has the encoder's dtype.

    `lengths` (prompts,) int64 is the number of tokens of each prompt, at least 1.
    """

    prompts: tuple[str, ...]
    tokens: Tensor
    lengths: Tensor

    @property
    def width(self) -> int:
        """Number of values per token."""
        return self.tokens.shape[1]

    def of(self, prompt: str) -> Tensor:
        """Tokens (L, text_width) of one prompt. DataError if the file does not have the prompt."""
        if prompt not in self.prompts:
            hint = did_you_mean(prompt, self.prompts)
            raise DataError(
                f"prompt {prompt!r:.120} has no embedding among {len(self.prompts)}{hint}; embed the suite again"
            )
        index = self.prompts.index(prompt)
        end = int(self.lengths[: index + 1].sum())
        return self.tokens[end - int(self.lengths[index]) : end]

    def batch(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Text (N, L, text_width) of N prompts, float32, and mask (N, L), true at tokens.

        Zeros pad to the longest prompt.
        """
        rows = [self.of(prompt).float() for prompt in prompts]
        text = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=text.device)
        return text, torch.arange(text.shape[1], device=text.device) < lengths[:, None]


def join(prompts: Sequence[str], rows: Sequence[Tensor]) -> TextEmbeddings:
    """Join the valid tokens (L_i, text_width) of each prompt to one object of embeddings."""
    return TextEmbeddings(tuple(prompts), torch.cat(list(rows)), torch.tensor([len(row) for row in rows]))


def save_embeddings(path: Path, embeddings: TextEmbeddings, record: dict[str, Any]) -> None:
    """Write the embeddings to a file. `record` is any JSON about their origin."""
    tensors = {"tokens": embeddings.tokens, "lengths": embeddings.lengths}
    save_tensors(path, tensors, {"kind": KIND, "prompts": list(embeddings.prompts), "record": record})


def load_embeddings(path: Path, *, width: int, most: int) -> TextEmbeddings:
    """Read embeddings, and check that they fit a model: tokens have `width` values, texts at most `most` tokens."""
    tensors, metadata = load_tensors(path, error=DataError)
    kind = metadata.get("kind") if isinstance(metadata, dict) else None
    prompts = metadata.get("prompts") if isinstance(metadata, dict) else None
    if kind != KIND or not isinstance(prompts, list):
        raise DataError(f"{path}: not text embeddings (kind {kind!r:.40}, tensors {sorted(tensors)}); embed again")
    embeddings = embeddings_of(path, tensors, prompts)
    if embeddings.width != width or int(embeddings.lengths.max()) > most:
        raise DataError(
            f"{path}: tokens are {embeddings.width} wide and up to {int(embeddings.lengths.max())} per prompt, the"
            f" model takes {width} and 1 to {most}; give the embeddings of the model's own text encoder"
        )
    return embeddings


def embeddings_of(path: Path, tensors: Mapping[str, Tensor], prompts: Sequence[Any]) -> TextEmbeddings:
    """Build the embeddings from the tensors and prompts of a file.

    DataError unless all of this holds: there is at least one prompt, each prompt is a text and occurs once, the tokens
    are finite floating-point numbers, and the lengths are whole numbers of at least 1 that sum to the number of tokens.
    """
    if set(tensors) != {"tokens", "lengths"}:
        raise DataError(f"{path}: not text embeddings (tensors {sorted(tensors)}); embed again")
    tokens, lengths = tensors["tokens"], tensors["lengths"]
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise DataError(f"{path}: the prompts are {prompts!r:.60}, must be texts, at least one; embed again")
    if not tokens.is_floating_point() or lengths.dtype != torch.int64:
        raise DataError(
            f"{path}: tokens are {dtype_name(tokens)}, lengths {dtype_name(lengths)}; allowed are floating-point"
            " numbers and int64; embed again"
        )
    whole = lengths.shape == (len(prompts),) and tokens.dim() == 2 and int(lengths.sum()) == len(tokens)
    if not whole or int(lengths.min()) < 1 or len(set(prompts)) != len(prompts):
        raise DataError(
            f"{path}: {len(prompts)} prompts, {lengths.numel()} lengths with sum {int(lengths.sum())} and tokens of"
            f" shape {tuple(tokens.shape)} do not belong together; embed again"
        )
    require_finite(f"{path}: tokens", tokens)
    return TextEmbeddings(tuple(prompts), tokens, lengths)


def dtype_name(tensor: Tensor) -> str:
    """Name of a tensor's dtype, for example `float32`."""
    return str(tensor.dtype).removeprefix("torch.")
