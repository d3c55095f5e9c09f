"""Inputs that the suite ships are found from every folder."""

from pathlib import Path

import pytest

from qdit.core.repository import ROOT, shipped_path

WEIGHTS = Path("weights/digit-classifier.safetensors")


def test_a_shipped_file_is_found_from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_path(WEIGHTS) == ROOT / WEIGHTS
    assert shipped_path(Path("config/mini-vbench.json")) == ROOT / "config" / "mini-vbench.json"


def test_a_file_of_the_current_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WEIGHTS.parent.mkdir()
    WEIGHTS.write_bytes(b"another classifier")
    assert shipped_path(WEIGHTS) == WEIGHTS


@pytest.mark.parametrize("name", ["weights/no-such-model.safetensors", "Snakefile", "baselines/rtn.py", "."])
def test_other_paths_stay_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_path(Path(name)) == Path(name)
    assert shipped_path(tmp_path / name) == tmp_path / name
