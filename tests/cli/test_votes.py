"""`qdit ab` and `qdit votes`: from sampled runs to counted votes on the command line, and refusals in one line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qdit.cli import main as cli
from qdit.core.files import save_arrays, write_json
from qdit.core.run import Run
from qdit.report.votes.ab_page import read_page
from tests.report.conftest import change_protocol, record, write_record

SETTING = "digits-cfg1.0-s20"
Called = Callable[..., str]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Called:
    """What `qdit` prints, run in this process in an empty folder; it must end with `code`."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
        monkeypatch.delenv(cli.DEBUG, raising=False)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert stopped.value.code == code, err
        return out if code == 0 else err

    return call


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs of the mini profile at W4A4, where `qdit` looks for them."""
    folder = tmp_path / "results" / "mini"
    profile = {"settings": {SETTING: {"model": "dit-digits", "sampler": "ddim", "steps": 20, "cfg_scale": 1.0}}}
    for label in ("rtn", "q-dit"):
        key = Run(SETTING, "natural", label, "w4a4", "common")
        value = record(key, profile | {"methods": {label: {"method": label}}})
        change_protocol(value, images=8, chunk=8)
        write_record(folder, key, value)
        images = np.full((8, 1, 8, 8), len(label), np.uint8)
        save_arrays(key.folder(folder) / "samples" / "00000.npz", {"images": images, "labels": np.arange(8)})
    return folder


def test_from_samples_to_counted_votes(called: Called, results: Path, tmp_path: Path) -> None:
    outcome = called("ab", "--each", 3, "--catch", 1, "--seed", 5)
    assert "4 trials (3 pair, 1 same)" in outcome and "ptq4dm w4a4: missing: no metrics.json" in outcome
    page = read_page(results / "ab.html")
    sides = [{question.left: "left", question.right: "right"}.get("q-dit", "tie") for question in page.questions]
    votes = [{"trial": trial, "choice": choice} for trial, choice in enumerate(sides)]
    record_of = {"format": "qdit-votes-1", "page": page.digest, "voter": "", "votes": votes}
    write_json(tmp_path / "votes.json", record_of)
    text = called("votes", "votes.json", "--draws", 100, "--out", "pairs.csv")
    assert "Q-DiT against RTN: 3, 0, 0; 1.00, 0.44 … 1.00; 0.250  few votes" in text
    assert (tmp_path / "pairs.csv").read_text(encoding="utf-8").startswith("contest,a,b,votes,a_better")
    write_json(tmp_path / "votes.json", json.loads(json.dumps(record_of | {"page": "0" * 64})))
    refused = called("votes", "votes.json", code=2)
    assert refused.startswith("qdit: error: votes.json: votes on page 000000000000…") and refused.count("\n") == 1


def test_a_run_that_has_not_begun_is_refused_in_one_line(called: Called) -> None:
    refused = called("ab", code=2)
    assert "no two runs to compare" in refused and refused.count("\n") == 1
    assert "results/mini/ab.html: no such file" in called("votes", "votes.json", code=2)
