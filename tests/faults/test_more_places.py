"""Faults of the kinds of real reports in votes, suites, texts, lists of chunks, logs and empty words: one line each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdit.cli.main import require_words
from qdit.core.errors import CheckpointError, ConfigError, DataError, QditError
from qdit.core.failure import Failure
from qdit.core.files import save_tensors, sha256_json, write_json
from qdit.metrics.samples import read_shard
from qdit.metrics.vbench.driver import BadInput, read_listing, read_suite
from qdit.metrics.vbench.driver import main as driver_main
from qdit.metrics.vbench.results import read_result
from qdit.models.text_embeddings import KIND, load_embeddings
from qdit.models.text_encoder import read_part
from qdit.quant.folder import require_unedited, with_digest
from qdit.report.votes.ab_page import FORMAT, read_page, scramble
from qdit.report.votes.statistics import read_ballot
from qdit.search.feature_journal import FeatureJournal
from qdit.search.run import Search, check
from qdit.search.space import Layer, SearchSpace
from qdit.workflow.one_row import find_row, named_rows
from qdit.workflow.profile import load_profile


def refused(error: type[Exception], words: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with pytest.raises(error, match=words) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)


# Text embeddings: types of prompts, tokens and lengths.

TEXTS = {"tokens": torch.ones(5, 8), "lengths": torch.tensor([2, 3])}


@pytest.mark.parametrize(
    ("tensors", "prompts", "words"),
    [
        ({}, [["a"], ["b"]], "must be texts"),
        ({}, [1, 2], "must be texts"),
        ({"tokens": torch.ones(0, 8), "lengths": torch.zeros(0, dtype=torch.int64)}, [], "at least one"),
        ({"tokens": torch.ones(5, 8, dtype=torch.int64)}, ["a", "b"], "tokens are int64"),
        ({"tokens": torch.ones(5, 8, dtype=torch.bool)}, ["a", "b"], "tokens are bool"),
        ({"lengths": torch.tensor([2.5, 2.5])}, ["a", "b"], "lengths float32"),
        ({"lengths": torch.tensor([torch.nan, 3.0])}, ["a", "b"], "lengths float32"),
        ({"lengths": torch.tensor([[2], [3]])}, ["a", "b"], "do not belong together"),
        ({"lengths": torch.tensor([0, 5])}, ["a", "b"], "do not belong together"),
        ({"lengths": torch.tensor([5, 0])}, ["a", "a"], "do not belong together"),
        ({"x": torch.ones(1)}, ["a", "b"], "not text embeddings"),
    ],
)
def test_text_embeddings(tensors: dict[str, Any], prompts: list[Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    save_tensors(path, TEXTS | tensors, {"kind": KIND, "prompts": prompts, "record": {}})
    refused(DataError, words, load_embeddings, path, width=8, most=5)


def test_a_part_of_other_prompts_or_damaged_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "00000.safetensors"
    assert read_part(path, ["a", "b"]) is None
    save_tensors(path, TEXTS, {"kind": KIND, "prompts": ["a", "b"], "record": {}})
    assert read_part(path, ["a", "b"]) is not None
    assert read_part(path, ["a", "c"]) is None and read_part(path, ["a"]) is None
    save_tensors(path, {"tokens": TEXTS["tokens"]}, {"kind": KIND, "prompts": ["a", "b"], "record": {}})
    assert read_part(path, ["a", "b"]) is None


# VBench's driver: suites and lists of clips, which VBench's own Python reads.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"prompt_en": "a", "dimension": 5}]', "dimension of entry 0 is a int"),
        ('[{"prompt_en": "a", "dimension": {"scene": 1}}]', "must be a list of names"),
        ('[{"prompt_en": "a", "dimension": "scene"}]', "dimension of entry 0 is a str"),
        ('[{"prompt_en": "a", "dimension": [["scene"]]}]', r"unknown dimension \['scene'\]"),
        ('[{"prompt_en": "\\ud800", "dimension": ["scene"]}]', "cannot be a file name"),
        ('[{"prompt_en": "a\\u0000", "dimension": ["scene"]}]', "cannot be a file name"),
        ('[{"prompt_en": "a\\nb", "dimension": ["scene"]}]', "cannot be a file name"),
        ('[{"prompt_en": " ", "dimension": ["scene"]}]', "cannot be a file name"),
        ('[{"prompt_en": "a", "prompt_en": "b", "dimension": ["scene"]}]', "'prompt_en' is there twice"),
        ("[" * 50_000, "nested too deeply"),
    ],
)
def test_suites(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    path.write_text(text)
    refused(BadInput, words, read_suite, path)


def test_a_folder_in_the_place_of_a_suite_or_of_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(BadInput, "Is a directory", read_suite, tmp_path)
    refused(BadInput, "Is a directory", read_listing, tmp_path)
    monkeypatch.setattr("sys.argv", ["driver.py", str(tmp_path), str(tmp_path), "scene", str(tmp_path / "x.json")])
    assert driver_main() == 2
    assert capsys.readouterr().err.startswith("vbench: error: ")


@pytest.mark.parametrize("listing", [{"clips": ["a"]}, {"clips": None}, {"failure": "x"}, None, {}])
def test_listings_of_clips(listing: Any, tmp_path: Path) -> None:
    path = tmp_path / "listing.json"
    path.write_text(json.dumps(listing))
    refused(BadInput, "no list of clips", read_listing, path)


def test_a_failure_that_was_edited_is_no_result_of_vbench(tmp_path: Path) -> None:
    path, recorded = tmp_path / "scene.json", Failure("sample", "failed", "it diverges").to_dict()
    write_json(path, {"dimension": "scene", **recorded})
    assert read_result(path)["failure"] == recorded["failure"]
    for change in ({"reason": "unlucky"}, {"kind": "unsupported"}, {"sha256": None}):
        write_json(path, {"dimension": "scene", "failure": recorded["failure"] | change})
        refused(DataError, "a failure that cannot be read", read_result, path)


# Lists of sample chunks: types, names of files, recorded failures.

CHUNK = {"file": "00000.npz", "sha256": "0" * 64}
LISTING = {"key": "k", "images": 4, "chunk": 4, "mode": "simulate", "backend": "torch", "chunks": [CHUNK]}


@pytest.mark.parametrize(
    "change",
    [
        {"images": "4"},
        {"images": 4.0},
        {"images": 0},
        {"chunk": -1},
        {"chunk": True},
        {"mode": 7},
        {"backend": None},
        {"difference": "x"},
        {"difference": {"mse": "0.1"}},
        {"chunks": [CHUNK | {"file": "../00000.npz"}]},
        {"chunks": [CHUNK | {"file": "/etc/hostname"}]},
        {"chunks": [CHUNK | {"file": ""}]},
        {"chunks": [CHUNK | {"sha256": 0}]},
        {"failure": {"step": "sample", "kind": "failed", "reason": "by hand"}},
        {"failure": {"step": "sample", "kind": "odd", "reason": "x", "sha256": "0"}},
    ],
)
def test_lists_of_chunks(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "shard-000.json"
    write_json(path, LISTING)
    assert read_shard(path).images == 4
    write_json(path, LISTING | change)
    refused(DataError, "not a list of sample chunks", read_shard, path)


# A/B pages and files of votes.

NAMES = {"A": "Method A", "B": "Method B"}
QUESTION = ["pair", "contest", "A", "B", ""]


def write_page(path: Path, key: Any) -> str:
    """A page with this key; its digest is right whatever the key holds."""
    data = {"format": FORMAT, "profile": "mini", "images": [], "trials": []}
    digest = sha256_json(data | {"key": key})
    data |= {"digest": digest, "key": scramble(json.dumps(key, sort_keys=True), digest)}
    path.write_text(f'<script type="application/json" id="data">{json.dumps(data)}</script>')
    return digest


@pytest.mark.parametrize(
    "key",
    [
        {"questions": [QUESTION], "names": {}},
        {"questions": [QUESTION], "names": {"A": 1, "B": None}},
        {"questions": [["odd", *QUESTION[1:]]], "names": NAMES},
        {"questions": [["pair", "contest", "A", "A", ""]], "names": NAMES},
        {"questions": [["pair", 1, "A", "B", ""]], "names": NAMES},
        {"questions": [["pair", ["x"], "A", "B", ""]], "names": NAMES},
        {"questions": "abc", "names": NAMES},
    ],
)
def test_pages_of_votes(key: Any, tmp_path: Path) -> None:
    path = tmp_path / "ab.html"
    digest = write_page(path, {"questions": [QUESTION], "names": NAMES})
    assert read_page(path).digest == digest
    write_page(path, key)
    refused(DataError, "not a page of `qdit ab`", read_page, path)


def test_a_page_that_is_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "ab.html"
    path.write_text(f'<script type="application/json" id="data">{"[" * 50_000}</script>')
    refused(DataError, "not a page of `qdit ab`", read_page, path)


def test_a_voters_name_that_a_terminal_would_obey(tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    ballot = {"format": "qdit-votes-1", "page": "0", "votes": [{"trial": 0, "choice": "left"}]}
    write_json(path, ballot | {"voter": "Žofia 👩‍🔬"})
    assert read_ballot(path).voter == "Žofia 👩‍🔬"
    write_json(path, ballot | {"voter": "x\x1b[31m\nqdit: error: y"})
    refused(DataError, "has control characters", read_ballot, path)


# Searches: seeds, sizes, journals of features.


def test_seeds_and_sizes_of_a_search() -> None:
    for seed in (-1, 2**63):
        refused(ConfigError, "search seed", check, Search("uniform", None, None, seed=seed), 1)  # type: ignore[arg-type]
    refused(ConfigError, "size 16 is there twice", SearchSpace, (Layer("a", 48, 8),), (16, 16), 16)


@pytest.mark.parametrize(
    "change",
    [{"chunk": -1}, {"images": 8.7}, {"shape": [4, 4]}, {"features": None}, {"genome": "168"}, {"sha256": "0"}],
)
def test_an_edited_line_of_features_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path, identity = tmp_path / "a.jsonl", {"seed": 0}
    with FeatureJournal(path, identity) as journal:
        journal.sample([((16, 8), 0)], lambda _: np.ones((8, 2), np.float32), images=8)
    with FeatureJournal(path, identity) as again:
        assert again.features[(16, 8), 0] is not None
    header, line = path.read_text().splitlines()
    path.write_text(f"{header}\n{json.dumps(json.loads(line) | change)}\n")
    refused(DataError, "line 2 is not an entry of this search, or was edited", FeatureJournal, path, identity)


# Numbers that are not finite in a configuration; empty words on the command line; a row without a name.


def test_a_number_that_is_not_finite_in_a_configuration() -> None:
    config = with_digest({"record": {"loss": 0.5}})
    require_unedited(config, where="config.json", remedy="quantize again")
    config["record"]["loss"] = float("nan")
    words = "holds a number that is not finite; quantize again"
    refused(CheckpointError, words, require_unedited, config, where="config.json", remedy="quantize again")


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (["sample", "fp", ""], "'fp'"),
        (["sample", "fp", "out", "--vae", ""], "'--vae'"),
        (["sample", "fp", "out", "--vae="], "'--vae'"),
        (["run", "--row", " "], "'--row'"),
        ([""], "'qdit'"),
    ],
)
def test_an_empty_word_is_refused(words: list[str], before: str) -> None:
    refused(ConfigError, f"after {before} is empty", require_words, words)
    require_words([word if word.strip() and not word.endswith("=") else "x" for word in words])


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_row_without_a_name_is_not_every_row(text: str) -> None:
    mini = load_profile("mini")
    refused(QditError, "expected a table, a method and bits", find_row, mini, text)
    refused(QditError, "expected a table, a method and bits", named_rows, mini, [text], [])
