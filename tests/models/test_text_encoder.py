"""T5 embeddings of prompts: a tiny random encoder with a tokenizer trained here, the cleaning, what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qdit.cli import main as cli
from qdit.core.errors import CheckpointError, ConfigError, DataError, Unsupported
from qdit.core.files import load_tensors
from qdit.models import text_encoder
from qdit.models.text_embeddings import load_embeddings
from qdit.models.text_encoder import PACKAGES, cleaned, embed, embed_suite, encoder_sha256, load_t5
from tests.small_latent_video import write_suite

PROMPTS = ["A red 3 moving left slowly", "a blue 5", "Two digits, one above the other, on a striped background"]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_line_error: Callable) -> None:
    monkeypatch.setattr(text_encoder, "find_spec", lambda module: None if module in ("ftfy", "bs4") else object())
    for action in (lambda: cleaned(["a"]), lambda: load_t5(tmp_path)):
        one_line_error(Unsupported, action, "beautifulsoup4, ftfy", ".[video]")


@pytest.fixture
def packages() -> None:
    """Skip where the optional extra `video` is not installed."""
    for module in PACKAGES:
        pytest.importorskip(module, reason="the optional extra `video` is not installed")


@pytest.fixture
def folder(tmp_path: Path, packages: None) -> Path:
    """A T5 encoder with random weights and a tokenizer trained on a few sentences, as folders of diffusers."""
    import sentencepiece
    from transformers import T5Config, T5EncoderModel

    (tmp_path / "t5" / "tokenizer").mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*cleaned(PROMPTS), *"abcdefghijklmnopqrstuvwxyz0123456789"]),
        model_prefix=str(tmp_path / "t5" / "tokenizer" / "spiece"),
        vocab_size=70,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    from transformers import T5Tokenizer

    T5Tokenizer.from_pretrained(str(tmp_path / "t5" / "tokenizer")).save_pretrained(tmp_path / "t5" / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(vocab_size=200, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
        T5EncoderModel(config).save_pretrained(tmp_path / "t5" / "text_encoder")
    return tmp_path / "t5"


def test_the_suffix_is_appended_and_the_text_cleaned_twice(packages: None) -> None:
    """Each pass takes one mark off the start."""
    assert cleaned(["::A Cat near http://cats.com/x"]) == ["a cat near aesthetic score: 6.5."]
    assert cleaned([":::A “red” 3"], suffix="") == [':a "red" 3']


def test_only_valid_tokens_are_kept_and_padding_changes_nothing(folder: Path) -> None:
    tokenizer, encoder = load_t5(folder, dtype=torch.float32)
    texts = cleaned(PROMPTS)
    together = embed(PROMPTS, texts, tokenizer, encoder, batch=3)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        given = tokenizer([text], padding="max_length", max_length=300, truncation=True, return_tensors="pt")
        count = int(given["attention_mask"].sum())
        with torch.no_grad():
            whole = encoder(**given).last_hidden_state[0]
        assert 1 < count < 300 and len(together.of(prompt)) == count
        torch.testing.assert_close(together.of(prompt), whole[:count], rtol=1e-4, atol=1e-5)


def test_suite_to_file(tmp_path: Path, folder: Path) -> None:
    embed_suite(PROMPTS, folder, tmp_path / "suite.safetensors")
    result = load_embeddings(tmp_path / "suite.safetensors", width=16, most=300)
    assert result.tokens.dtype == torch.bfloat16 and result.prompts == tuple(PROMPTS)
    text, mask = result.batch(PROMPTS[:2])
    assert mask[0].all() and not mask[1].all() and text.abs().max() > 0
    metadata = load_tensors(tmp_path / "suite.safetensors")[1]["record"]
    assert metadata["texts"] == cleaned(PROMPTS) and metadata["encoder_sha256"] == encoder_sha256(folder)
    assert not list(tmp_path.glob("*.parts"))


def test_the_command_embeds_each_prompt_of_a_suite_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = write_suite(tmp_path / "suite.json", PROMPTS), tmp_path / "text.safetensors"
    for arguments, code in (([], 0), (["--dtype", "int8"], 2)):
        command = ["qdit", "video", "embed", str(suite), str(out), "--encoder", str(folder), *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == code, capsys.readouterr().err
    assert "dtype 'int8': allowed for T5 are" in capsys.readouterr().err
    assert load_embeddings(out, width=16, most=300).prompts == tuple(PROMPTS)


def test_an_embedding_that_was_stopped_goes_on(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the same prompts, encoder and precision are kept; the whole has the same bytes."""
    monkeypatch.setattr(text_encoder, "PART", 1)
    embed_suite(PROMPTS, folder, tmp_path / "whole.safetensors")
    embedded: list[str] = []

    def counted(prompts: Any, *rest: Any) -> Any:
        if len(embedded) == 2:
            raise KeyboardInterrupt
        embedded.extend(prompts)
        return embed(prompts, *rest)

    monkeypatch.setattr(text_encoder, "embed", counted)
    with pytest.raises(KeyboardInterrupt):
        embed_suite(PROMPTS, folder, tmp_path / "stopped.safetensors")
    assert not (tmp_path / "stopped.safetensors").exists()
    embedded.clear()
    embed_suite(PROMPTS, folder, tmp_path / "stopped.safetensors")
    assert embedded == PROMPTS[2:]
    assert (tmp_path / "stopped.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_the_digest_is_of_the_encoder_and_not_of_what_lies_beside_it(tmp_path: Path, folder: Path) -> None:
    before = encoder_sha256(folder)
    (folder / "text_encoder" / ".cache").mkdir()
    (folder / "README.md").write_text("read me")
    assert encoder_sha256(folder) == before
    (folder / "tokenizer" / "added_tokens.json").write_text("{}")
    assert encoder_sha256(folder) != before


def test_precisions_that_t5_overflows_in_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype 'float16': allowed for T5 are float32, bfloat16"):
        embed_suite(PROMPTS, folder, tmp_path / "out", dtype="float16")
    with pytest.raises(ConfigError, match="more than once"):
        embed_suite([*PROMPTS, PROMPTS[0]], folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no such folder of a T5 encoder"):
        embed_suite(PROMPTS, tmp_path / "nothing", tmp_path / "out")


def test_prompts_that_are_too_long_or_doubled_are_refused(folder: Path) -> None:
    tokenizer, encoder = load_t5(folder)
    with pytest.raises(DataError, match="at most 300"):
        embed(["long"], ["z " * 400], tokenizer, encoder)
    with pytest.raises(ConfigError, match="more than once"):
        embed(["a", "a"], ["a", "a"], tokenizer, encoder)


def rename_to_pickle(folder: Path) -> Any:
    file = folder / "text_encoder" / "model.safetensors"
    torch.save({}, folder / "text_encoder" / "pytorch_model.bin")
    file.unlink()


@pytest.mark.parametrize("damage", [lambda f: (f / "text_encoder" / "config.json").unlink(), rename_to_pickle])
def test_folders_without_plain_weights_are_refused(
    folder: Path, damage: Callable[[Path], Any], one_line_error: Callable
) -> None:
    damage(folder)
    one_line_error(CheckpointError, lambda: load_t5(folder), str(folder), "safetensors")
