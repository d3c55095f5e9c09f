"""The command line: quick help that teaches, and one line on stderr with exit code 2 for whatever is wrong."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command

from qdit import __version__
from qdit.cli import main as cli
from qdit.cli import options
from qdit.core.errors import ConfigError
from qdit.workflow.profile import load_profile
from tests.cli.outcome import NATURAL, SMALL, Qdit, assert_one_line, bit_flipped


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, qdit.cli.main; print(*sorted(set(sys.modules) & {'torch', 'numpy', 'pandas', 'scipy', 'yaml'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


def test_help_imports_nothing_that_takes_seconds() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "qdit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "Exit codes" in done.stdout and "typer" in imported
    assert not imported & {"torch", "scipy", "sklearn", "pandas", "matplotlib", "snakemake", "diffusers"}


STEPS = {"calibrate", "quantize", "sample", "features", "reference", "evaluate"}
STEPS |= {"table", "validate", "ls", "doctor", "train"}


def commands(group: Any, *path: str) -> list[str]:
    """Every command, as it is typed after `qdit`; hidden ones are other names of those that are shown."""
    if group.hidden:
        return []
    if not hasattr(group, "commands"):
        return [" ".join(path)]
    return [line for name, command in group.commands.items() for line in commands(command, *path, name)]


def test_program_shows_every_command(qdit: Qdit) -> None:
    for arguments in (["--help"], ["-h"], []):
        outcome = qdit(*arguments)
        assert outcome.code == 0
        assert set(re.findall(r"^  ([a-z]+) ", outcome.out.split("Commands:")[1], flags=re.MULTILINE)) >= STEPS
    assert qdit("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("name", commands(get_command(cli.app)))
def test_every_command_shows_an_example_that_it_understands(qdit: Qdit, name: str) -> None:
    text = qdit(*name.split(), "--help").out
    examples = re.split(r"Examples?:\n", text)[1].split("\n\n")[0].replace("\\\n", " ")
    for example in examples.strip().splitlines():
        program, *arguments = shlex.split(example)
        assert program == "qdit"
        assert arguments[: len(name.split())] == name.split()
        command: Any = get_command(cli.app)
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context(name, arguments)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("sampel", ["sampel", "sample"]),
        ("sample", ["checkpoint", "qdit sample --help"]),
        ("sample a b --stpes 2", ["--stpes", "--steps"]),
        ("sample a b --steps two", ["--steps"]),
        ("sample a b --steps 0", ["steps 0", "1 to 1000"]),
        ("sample a b --sampler dim", ["'dim'", "ddim, ddpm"]),
        ("sample a b --cfg-scale nan", ["cfg_scale nan"]),
        ("sample a b --threads 0", ["--threads"]),
        ("sample a b", ["a/config.json: ", "o such file"]),
        ("quantize a b --method", ["--method"]),
        ("quantize a b --method rtnn", ["'rtnn'", "did you mean 'rtn'?"]),
        ("quantize a b --method rtn --bits w0a8", ["bits 'w0a8'", "2 to 8"]),
        ("quantize a b --method rtn --bits 4/8", ["'4/8'", "w4a8"]),
        ("quantize a b --method rtn --options {", ["--options", "not valid JSON"]),
        ("quantize a b --method rtn --options []", ["--options", "JSON object"]),
        ("quantize a b --method rtn --calibration x.safetensors", ["--calibration", "kind=path"]),
        ("quantize a b --method rtn", ["a", "no such file"]),
        ("calibrate a b --kind trajektory", ["a", "no such file"]),
        ("table table9", ["'table9'", "table2, table3, table4"]),
        ("table table2 --profile minni", ["minni", "did you mean 'mini'?"]),
        ("validate nothing.yaml", ["nothing.yaml", "no such file"]),
        ("doctor --profile nothing.yaml", ["nothing.yaml"]),
        ("train", ["train --help"]),
        ("train dti", ["dti"]),
    ],
)
def test_bad_arguments_are_one_line(
    qdit: Qdit, arguments: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(qdit(*arguments.split()), *parts)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["qdit", "--debug", "validate", "nothing.yaml"])
    monkeypatch.setenv(cli.DEBUG, "")
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        cli.main()


def test_an_output_that_cannot_be_written_is_one_line(qdit: Qdit, weights: Path, tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    assert_one_line(qdit("calibrate", weights, occupied / "x.safetensors", "--samples", 1, *SMALL), str(occupied))


def test_threads_come_from_the_flag_or_the_environment(qdit: Qdit, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr("qdit.cli.samples.use_threads", used.append)
    monkeypatch.setattr("qdit.mini.reference.make_mini_reference", lambda *arguments: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    qdit("reference", "out.npz")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    qdit("reference", "out.npz")
    monkeypatch.setenv("QDIT_THREADS", "2")
    qdit("reference", "out.npz")
    qdit("reference", "out.npz", "--threads", 4)
    assert used == [1, 3, 2, 4]


def test_threads_are_torchs() -> None:
    before = torch.get_num_threads()
    try:
        options.use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_validate_says_what_there_is(qdit: Qdit, tmp_path: Path) -> None:
    assert f"mini: valid; {len(load_profile('mini')['tables'])} tables" in qdit("validate").out
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("sampling: {images: 0}\n")
    assert_one_line(qdit("validate", "mini", overlay), "sampling.images", "found 0", "at least 4")


def test_ls_shows_methods_settings_and_runs(qdit: Qdit) -> None:
    out = qdit("ls").out
    for words in ("q-dit", "baselines.rtn", "digits-cfg1.5-s20", "table4:", "/salient/rtn/w4a8-common"):
        assert words in out


def test_doctor_finds_what_is_missing_or_damaged(
    qdit: Qdit, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    healthy = qdit("doctor", "--all")
    assert healthy.code == 0
    assert healthy.out.count("ok  ") == 12 + 1  # files, and the line of the methods
    assert healthy.out.count("ok    18 methods can be imported") == 1
    assert healthy.out.startswith("mini: ready\n") and qdit("doctor").out.count("ok  ") == 0
    assert "torch" in healthy.out
    shutil.copytree(repository / "weights", tmp_path / "weights")
    bit_flipped(tmp_path / "weights" / NATURAL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    shutil.copy2(repository / "config" / "mini-vbench.json", tmp_path / "config")
    overlay = {
        "extractors": {"digit-classifier": "weights/nothing.safetensors"},
    }
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps(overlay))
    ill = qdit("doctor", "--profile", "mini", "--profile", path)
    assert ill.code == 1
    first = "mini: NOT READY: 1 of 12 files missing (1 of unknown size); 1 of 12 files damaged or others"
    assert ill.out.splitlines()[0] == first
    assert ill.out.count("FAIL") == 2
    assert "sha256" in ill.out
    assert "weights/nothing.safetensors: no such file" in ill.out
