"""Fixtures of the tests of the command line."""

import sys
from pathlib import Path

import pytest

from qdit.cli import main as cli
from tests.cli.outcome import NATURAL, SMALL, Outcome, Qdit


@pytest.fixture
def qdit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qdit:
    """Run a command in this process, with the exit code and output that the program would have."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["qdit", *map(str, arguments)])
        monkeypatch.delenv(cli.DEBUG, raising=False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int)
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="module")
def weights(repository: Path) -> Path:
    return repository / "weights" / NATURAL


@pytest.fixture
def trajectory(tmp_path: Path, weights: Path, qdit: Qdit) -> Path:
    path = tmp_path / "trajectory.safetensors"
    assert qdit("calibrate", weights, path, "--samples", 4, *SMALL).code == 0
    return path
