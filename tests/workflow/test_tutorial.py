"""docs/add-a-method.md followed to the letter: its files are written, its commands run in a copy of the repository."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.preloaded import python, snakemake

pytestmark = pytest.mark.ci

DOCUMENT = "docs/add-a-method.md"
METHOD, LINE, TABLE = "baselines/my_smoothquant.py", "my-smoothquant.yaml", "my-smoothquant-table.yaml"
RULE = "rules/baselines/my_smoothquant.smk"
"""What only a method with other inputs or resources needs."""
SAVED = "test_quantize_save_load_gives_the_same_bits"


@dataclass(frozen=True)
class Followed:
    """The copy after the last command, and what each command printed, in order."""

    root: Path
    printed: dict[str, str]


def blocks_of(document: str) -> list[tuple[str | None, str]]:
    """(file, content) of every code block that names one and (None, command) of the shell blocks' lines, in order."""
    blocks: list[tuple[str | None, str]] = []
    pattern = r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$'
    for language, name, content in re.findall(pattern, document, flags=re.MULTILINE | re.DOTALL):
        if name:
            blocks.append((name, content))
        elif language == "sh":
            blocks += [(None, command) for command in content.splitlines()]
    return blocks


def not_cloned(folder: str, names: list[str]) -> set[str]:
    """Hidden files, caches and results of runs: what no fresh clone has."""
    produced = {"results": set(names) - {"published", "studies"}}.get(Path(folder).name, set())
    return produced | {name for name in names if name.startswith(".") or name == "__pycache__"}


def run(command: str, root: Path) -> str:
    """Run a command as if this copy were installed; fails unless it succeeds.

    No shell runs it, so it must not have characters that a shell changes. Python's programs are children of processes
    that have their packages imported (tests/preloaded.py).
    """
    changed = set(command) & set("|&;<>()$`\\*?[]{}#~!")
    assert not changed, f"{DOCUMENT}: {command}: a shell changes {sorted(changed)}; this test calls no shell"
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "PYTEST_ADDOPTS": "--verbose --color=no",
    }
    environment = {**os.environ, **environment}
    program, *words = shlex.split(command)
    if program == "snakemake":
        done = snakemake(words, root, server="shared", environment=environment)
    elif program in ("qdit", "pytest"):
        done = python(["-m", program, *words], root, environment=environment)
    else:
        done = subprocess.run([program, *words], cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def followed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """All files written, all commands run, once for all tests."""
    document = (repository / DOCUMENT).read_text(encoding="utf-8")
    root = tmp_path_factory.mktemp("tutorial") / "checkout"
    shutil.copytree(repository, root, ignore=not_cloned)
    printed = {}
    for name, content in blocks_of(document):
        if name is None:
            printed[content] = run(content, root)
            continue
        assert not (root / name).exists(), f"{DOCUMENT} says how to write {name}, which is there already"
        (root / name).write_text(content, encoding="utf-8")
    return Followed(root, printed)


def test_the_document_has_all_files_and_every_kind_of_command(repository: Path, followed: Followed) -> None:
    names = [name for name, _ in blocks_of((repository / DOCUMENT).read_text(encoding="utf-8")) if name]
    assert names == [METHOD, LINE, TABLE, RULE]
    assert {command.split()[0] for command in followed.printed} == {"ruff", "snakefmt", "pytest", "qdit", "snakemake"}


def test_a_method_is_one_python_file_and_one_line_of_configuration(followed: Followed) -> None:
    """Before any other file is there, its row is planned, with the calibration data that its class names."""
    (output,) = (text for command, text in followed.printed.items() if "results/mini/runs" in command)
    assert len((followed.root / LINE).read_text(encoding="utf-8").splitlines()) == 1
    jobs = re.findall(r"^rule (\w+):\n    input: (.*)\n", output, flags=re.MULTILINE)
    (inputs,) = (inputs for rule, inputs in jobs if rule == "quantize" and "uniform.safetensors" in inputs)
    assert "calibration/dit-digits/natural/digits-cfg1.0-s20/uniform.safetensors" in inputs
    assert {"calibrate", "quantize", "sample", "evaluate"} <= {rule for rule, _ in jobs}


def test_a_rule_file_takes_the_place_of_the_generic_rule(followed: Followed) -> None:
    (output,) = (text for command, text in followed.printed.items() if "--forceall" in command)
    (job,) = re.findall(r"^rule quantize_my_smoothquant:\n((?: {4}.*\n)*)", output, flags=re.MULTILINE)
    assert "uniform.safetensors" in job and "label=my-smoothquant" in job


def test_the_contract_tests_find_the_method_and_it_passes(followed: Followed) -> None:
    (output,) = (text for command, text in followed.printed.items() if command.startswith("pytest"))
    outcomes = re.findall(r"::(test_\w+)\[[^\]]*my-smoothquant[^\]]*\] ([A-Z]+)", output)
    assert len(outcomes) >= 10 and {outcome for _, outcome in outcomes} == {"PASSED"}
    assert [name for name, _ in outcomes].count(SAVED) == 4  # two families of models, two scopes


def test_the_table_has_a_row_with_numbers(followed: Followed) -> None:
    path = followed.root / "results" / "tutorial" / "tables" / "my_smoothquant.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    assert [(label, row["status"]) for label, row in rows.items()] == [
        ("fp", "ok"),
        ("rtn", "ok"),
        ("my-smoothquant", "ok"),
    ]
    row = rows["my-smoothquant"]
    assert (row["method"], row["weight_bits"], row["activation_bits"]) == ("my-smoothquant", "4", "8")
    assert all(float(row[name]) > 0 for name in ("fid", "fd_fp", "mse_fp", "ratio_fd_fp"))
    assert row["mse_fp"] != rows["rtn"]["mse_fp"]


def test_its_row_alone_is_already_there(followed: Followed) -> None:
    (output,) = (text for command, text in followed.printed.items() if "results/tutorial/runs" in command)
    assert "Nothing to be done" in output
