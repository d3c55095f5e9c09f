"""The path of a newcomer: the commands of CONTRIBUTING.md exist, and those that add a method work as written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import ROOT, blocks, text_of
from tests.workflow.checkout import copied

NEW_METHOD = "qdit new method"
TESTS = ("tests/baselines", "tests/docs", "tests/conftest.py", "tests/small_models.py", "pyproject.toml")


def lines_of_contributing() -> list[str]:
    """The command lines of CONTRIBUTING.md, without comments."""
    text = text_of("CONTRIBUTING.md")
    return [line.partition(" #")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]


def commands_of_a_new_method() -> list[str]:
    """The block that begins a method and makes its table."""
    (block,) = [block for block in blocks(text_of("CONTRIBUTING.md"), "sh") if NEW_METHOD in block]
    return block.splitlines()


def test_set_up_and_tests_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {line.split()[1] for line in lines_of_contributing() if line.startswith("make ")}
    assert {"install", "test", "lint", "test-slow"} <= named <= targets


def test_a_newcomer_is_told_every_step() -> None:
    lines = lines_of_contributing()
    assert lines[0].startswith("git clone ")
    steps = ["make install", ". .venv/bin/activate", "make test", *commands_of_a_new_method()]
    assert sorted(steps, key=lines.index) == steps
    assert [line.split()[:2] for line in commands_of_a_new_method()] == [
        ["qdit", "new"],
        ["python", "-m"],
        ["qdit", "run"],
    ]


@pytest.mark.slow
def test_the_commands_of_a_new_method_work_in_a_copy_of_the_repository(tmp_path: Path) -> None:
    checkout = copied(ROOT, tmp_path, extra=TESTS)
    for line in commands_of_a_new_method():
        run_line(line, checkout)
    rows = (checkout / "results" / "my_method" / "tables" / "my_method_table.csv").read_text(encoding="utf-8")
    assert "my-method" in rows


def run_line(line: str, checkout: Path) -> None:
    """Run a line as an active environment would, with the sources of the copy."""
    program, *words = shlex.split(line)
    command = [sys.executable, "-m", "qdit"] if program == "qdit" else [sys.executable]
    done = subprocess.run(
        [*command, *words],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
