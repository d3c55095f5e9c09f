"""T5 embeddings of prompts, computed as in Open-Sora 1.2.

" aesthetic score: 6.5." is appended to each prompt. PixArt's caption cleaner (from diffusers) then cleans it twice. The
encoder reads at most 300 tokens. Only valid tokens are kept. The package transformers and the packages of the cleaner
are optional. Only this module uses them.
"""

import shutil
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from qdit.core.digest import code_digest
from qdit.core.errors import CheckpointError, ConfigError, DataError, Unsupported
from qdit.core.files import load_tensors, one_line, sha256_file, sha256_json
from qdit.models.text_embeddings import TextEmbeddings, embeddings_of, join, save_embeddings

SUFFIX = " aesthetic score: 6.5."
MOST_TOKENS = 300
PART = 64
"""Prompts whose embeddings are written at a time; an embedding that was stopped goes on after the last part."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions of the encoder; T5's activations are beyond the range of float16."""
PACKAGES = {"transformers": "transformers", "sentencepiece": "sentencepiece", "bs4": "beautifulsoup4", "ftfy": "ftfy"}
"""Module → package of the optional extra `video`."""


def require_packages() -> None:
    """Raise Unsupported if the packages of the extra `video` are not installed."""
    if missing := [package for module, package in PACKAGES.items() if find_spec(module) is None]:
        raise Unsupported(
            f"text embeddings need {', '.join(missing)}, not installed here: run `pip install -e '.[video]'` or take"
            " an embeddings file made elsewhere"
        )


def cleaned(prompts: Iterable[str], suffix: str = SUFFIX) -> list[str]:
    """Prepare prompts for the tokenizer: append `suffix` (the aesthetic score), and clean each text twice.

    Open-Sora's program cleans twice, too.
    """
    require_packages()
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline

    cleaner = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)  # its methods for text, without any model
    texts: list[str] = cleaner._text_preprocessing([prompt + suffix for prompt in prompts], clean_caption=True)
    return texts


def encoder_folders(folder: Path) -> tuple[Path, Path]:
    """Folders of the tokenizer and of the encoder inside `folder`. Both can be `folder` itself."""
    split = (folder / "text_encoder").is_dir()
    return (folder / "tokenizer", folder / "text_encoder") if split else (folder, folder)


def load_t5(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Load tokenizer and encoder, in eval mode, from the subfolders `tokenizer` and `text_encoder` or from one folder.

    Nothing is downloaded, and only safetensors are read. DeepFloyd publishes this encoder as pickles. The files beside
    PixArt-Sigma's VAE are safetensors.
    """
    require_packages()
    from transformers import AutoTokenizer, T5EncoderModel

    of_tokenizer, of_encoder = encoder_folders(folder)
    if not (of_encoder / "config.json").is_file():
        raise CheckpointError(
            f"{of_encoder}: no config.json; give the folder of a T5 encoder in safetensors, for example that of"
            " PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(of_tokenizer, local_files_only=True)
        encoder = T5EncoderModel.from_pretrained(of_encoder, local_files_only=True, use_safetensors=True, dtype=dtype)
    except (OSError, ValueError, ImportError) as problem:
        raise CheckpointError(
            f"{folder}: not a T5 encoder with tokenizer in safetensors ({one_line(problem)}); get it again"
        ) from None
    return tokenizer, encoder.to(device).eval()


def require_distinct(prompts: Sequence[str]) -> None:
    """Raise ConfigError if a prompt occurs twice."""
    if doubled := sorted({prompt for prompt in prompts if prompts.count(prompt) > 1}):
        raise ConfigError(f"prompt {doubled[0]!r:.120} stands more than once in the suite; give each prompt once")


def embed(
    prompts: Sequence[str], texts: Sequence[str], tokenizer: Any, encoder: Any, *, batch: int = 8
) -> TextEmbeddings:
    """Compute the embeddings of `prompts` from their cleaned `texts`. DataError for a text of more than 300 tokens.

    Texts are padded to the longest of their batch, not to 300 tokens. The result is the same, because the encoder's
    attention ignores padding.
    """
    require_distinct(prompts)
    rows: list[Tensor] = []
    for start in range(0, len(texts), batch):
        tokens = tokenizer(list(texts[start : start + batch]), padding=True, return_tensors="pt")
        mask = tokens["attention_mask"].to(encoder.device)
        lengths = mask.sum(dim=1).tolist()
        if max(lengths) > MOST_TOKENS:
            long = prompts[start + lengths.index(max(lengths))]
            raise DataError(f"prompt {long!r:.120} has {max(lengths)} tokens, at most {MOST_TOKENS} fit; shorten it")
        with torch.inference_mode():
            hidden = encoder(input_ids=tokens["input_ids"].to(encoder.device), attention_mask=mask).last_hidden_state
        rows += [row[valid.bool()].cpu() for row, valid in zip(hidden, mask, strict=True)]
    return join(prompts, rows)


def encoder_sha256(folder: Path) -> str:
    """Digest of all files of an encoder and its tokenizer. CheckpointError if there are none."""
    sources = dict.fromkeys(encoder_folders(folder))
    files = [path for source in sources for path in sorted(source.glob("*")) if path.is_file() and path.name[0] != "."]
    if not files:
        raise CheckpointError(f"{folder}: no such folder of a T5 encoder; `qdit fetch` with its profile downloads one")
    return sha256_json({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})


def embed_suite(
    prompts: Sequence[str], folder: Path, out: Path, *, device: str = "cpu", dtype: str = "bfloat16"
) -> None:
    """Embed all prompts of a suite with the T5 in `folder`, and write one file, in the precision of the encoder.

    Finished parts are stored in `<out>.parts` until all exist. A stopped call continues with the parts whose prompts,
    encoder, precision and kind of device are the same. Raises ConfigError for an unknown precision or a repeated
    prompt.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: allowed for T5 are {', '.join(DTYPES)}")
    require_distinct(prompts)
    texts = cleaned(prompts)
    record = {"encoder": folder.name, "encoder_sha256": encoder_sha256(folder), "suffix": SUFFIX, "dtype": dtype}
    key = sha256_json(
        {**record, "texts": texts, "device": device.partition(":")[0], "code": code_digest("qdit.models.text_encoder")}
    )
    parts = out.with_name(f"{out.name}.parts") / key[:16]
    loaded: tuple[Any, Any] | None = None
    finished: list[TextEmbeddings] = []
    for start in tqdm(range(0, len(prompts), PART), desc="text embeddings", unit="part", mininterval=1):
        path, rows = parts / f"{start:05d}.safetensors", slice(start, start + PART)
        embeddings = read_part(path, prompts[rows])
        if embeddings is None:
            loaded = loaded or load_t5(folder, device=device, dtype=DTYPES[dtype])
            embeddings = embed(prompts[rows], texts[rows], *loaded)
            save_embeddings(path, embeddings, record)
        finished.append(embeddings)
    whole = join(prompts, [embeddings.of(prompt) for embeddings in finished for prompt in embeddings.prompts])
    save_embeddings(out, whole, {**record, "texts": texts})
    shutil.rmtree(parts.parent)


def read_part(path: Path, prompts: Sequence[str]) -> TextEmbeddings | None:
    """Embeddings of these prompts that an earlier, stopped call wrote.

    None if the file is missing, is damaged, or holds other prompts.
    """
    try:
        tensors, metadata = load_tensors(path, error=DataError)
        embeddings = embeddings_of(path, tensors, prompts)
    except DataError:
        return None
    stored = metadata.get("prompts") if isinstance(metadata, dict) else None
    return embeddings if stored == list(prompts) else None
