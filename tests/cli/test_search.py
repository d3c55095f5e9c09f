"""`qdit search`: whatever is wrong is one line with what is allowed, and exit code 2."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qdit.cli import main as cli
from qdit.core.files import read_json

Refused = Callable[[str], str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repository: Path) -> Refused:
    """The one line with which `qdit` refuses some arguments, run in this process in the repository."""

    def call(arguments: str) -> str:
        monkeypatch.chdir(repository)
        monkeypatch.setattr(sys, "argv", ["qdit", *arguments.split()])
        monkeypatch.delenv(cli.DEBUG, raising=False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert (stopped.value.code, out) == (2, "")
        assert err.startswith("qdit: error: ") and err.count("\n") == 1
        return err

    return call


NATURAL = "weights/dit-digits-natural.safetensors"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ("--kind race", ["'race'", "evolution, racing, response, random, ilp, hessian, uniform, chance", "'racing'"]),
        ("--reference-size 48", ["budget of uniform group size 48 cannot be met", "legal references: [1, 2, 3, 4"]),
        ("--reference-size 72", ["even all 36 costs more"]),
        ("--sizes 5,16", ["group sizes [5] do not divide", "legal: [1, 2, 3, 4, 6, 8, 9, 12, 16"]),
        ("--reference-size 7", ["group sizes [7] do not divide"]),
        ("--sizes 4;8", ["--sizes '4;8'", "separated by commas"]),
        ("--images 40 --chunk 16", ["40 images in chunks of 16", "allowed are [16, 32]"]),
        ("--images 1", ["--images 1", "at least 2"]),
        ("--chunk 0", ["chunks of 0"]),
        ("--metric fvd", ["'fvd'", "fd_fp, fid"]),
        ("--metric fid", ["--reference-file", "qdit reference"]),
        ("--metric fid --reference-file none.npz", ["none.npz"]),
        ("--bits w1a8", ["bits 'w1a8'", "2 to 8"]),
        ("--bits 4/8", ["'4/8'", "w4a8"]),
        ("--options {", ["--options", "not valid JSON"]),
        ('--options {"population":0}', ["population", "at least 1"]),
        ('--options {"popultion":9}', ["racing has no option 'popultion'", "did you mean 'population'?"]),
        ('--options {"rungs":[16,32]}', ["rungs [16, 32]", "all 64 images"]),
        ("--kind ilp", ["calibration data of kind trajectory", "qdit calibrate"]),
        ("--kind ilp --calibration ndtc=a", ["ndtc", "trajectory=FILE"]),
        ("--kind ilp --calibration trajectory=none", ["none"]),
        ("--kind uniform --workers 0", ["workers 0", "runs 1 to"]),
        ("--fresh -1", ["fresh -1"]),
        ("--steps 0", ["steps 0", "1 to 1000"]),
    ],
)
def test_a_bad_search_is_one_line(refused: Refused, tmp_path: Path, arguments: str, messages: list[str]) -> None:
    line = refused(f"search {NATURAL} {tmp_path}/a.json {arguments}")
    for words in messages:
        assert words in line
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ("--seeds 0", ["seeds 0"]),
        ("--curve 4096", ["must not descend"]),
        ('--calibration a --random {"evaluations":0}', ["evaluations is 0"]),
        ("--racing []", ["--racing", "JSON object"]),
        ("", ["response: needs calibration data", "--calibration"]),
        ("--calibration a --weights none.safetensors", ["none.safetensors"]),
    ],
)
def test_a_bad_study_is_one_line(refused: Refused, tmp_path: Path, arguments: str, messages: list[str]) -> None:
    line = refused(f"search-study {tmp_path}/a.json --work {tmp_path}/work --workers 1 {arguments}")
    for words in messages:
        assert words in line


def test_the_journal_of_another_search_stays(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repository)
    few = f"search {NATURAL} {tmp_path}/a.json --kind random --images 2 --chunk 2 --steps 1 --options"
    for evaluations in (1, 2):
        arguments = [*few.split(), f'{{"evaluations": {evaluations}}}']
        monkeypatch.setattr(sys, "argv", ["qdit", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        assert f"{2 * evaluations} images sampled" in capsys.readouterr().out
    assert len(list(tmp_path.glob("a.*.jsonl"))) == 2
    assert len(read_json(tmp_path / "a.json")["history"]) == 2
