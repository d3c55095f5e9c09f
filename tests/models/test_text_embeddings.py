"""Files of text embeddings: padded batches and masks, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qdit.core.errors import DataError
from qdit.core.files import save_tensors
from qdit.models.text_embeddings import TextEmbeddings, join, load_embeddings, save_embeddings

PROMPTS = ("a red 3 moving left", "a blue 5", "still life")


@pytest.fixture
def embeddings() -> TextEmbeddings:
    draw = torch.Generator().manual_seed(0)
    return join(PROMPTS, [torch.randn(length, 6, generator=draw).bfloat16() for length in (4, 1, 3)])


def test_batches_are_padded_to_their_longest_prompt(embeddings: TextEmbeddings) -> None:
    text, mask = embeddings.batch([PROMPTS[2], PROMPTS[1], PROMPTS[2]])
    assert text.shape == (3, 3, 6) and text.dtype == torch.float32
    assert mask.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    assert torch.equal(text[0], embeddings.tokens[5:8].float()) and torch.equal(
        text[1, 0], embeddings.tokens[4].float()
    )
    assert (text[~mask] == 0).all()


def test_file_round_trip(tmp_path: Path, embeddings: TextEmbeddings) -> None:
    path = tmp_path / "suite.safetensors"
    save_embeddings(path, embeddings, {"encoder": "t5"})
    result = load_embeddings(path, width=6, most=4)
    assert result.prompts == PROMPTS and result.tokens.dtype == torch.bfloat16 and result.width == 6
    for prompt in PROMPTS:
        assert torch.equal(result.of(prompt), embeddings.of(prompt))


def test_unknown_prompts_are_named(embeddings: TextEmbeddings) -> None:
    with pytest.raises(DataError, match=r"'a blue 6'.*did you mean 'a blue 5'"):
        embeddings.batch(["a blue 6"])


def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, embeddings: TextEmbeddings, one_line_error: Callable
) -> None:
    path = tmp_path / "suite.safetensors"

    def refused(*words: str, width: int = 6, most: int = 4) -> None:
        one_line_error(DataError, lambda: load_embeddings(path, width=width, most=most), str(path), *words)

    refused("no such file")
    save_embeddings(path, embeddings, {})
    refused("6 wide", "takes 8", width=8)
    refused("up to 4", "1 to 3", most=3)
    metadata = {"kind": "text embeddings", "prompts": list(PROMPTS)}
    save_tensors(path, {"tokens": embeddings.tokens[:-1], "lengths": embeddings.lengths}, metadata)
    refused("sum 8", "(7, 6)")
    save_tensors(path, {"tokens": embeddings.tokens, "lengths": embeddings.lengths}, {**metadata, "prompts": ["a"] * 3})
    refused("do not belong together")
    save_tensors(path, {"tokens": embeddings.tokens / 0, "lengths": embeddings.lengths}, metadata)
    refused("NaN or infinite")
    save_tensors(path, {"tokens": embeddings.tokens}, metadata)
    refused("not text embeddings")
