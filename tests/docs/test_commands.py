"""What the documents say can be typed: every command exists, with these options, targets and files."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from qdit.workflow.profile import load_profile
from tests.docs.commands import (
    DOCUMENTS,
    ROOT,
    Command,
    check_qdit,
    commands_of,
    options_of,
    problem_of,
    resolve,
    spans,
    text_of,
    titled,
)

COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]


def test_there_are_commands_of_every_kind() -> None:
    assert {"qdit", "snakemake", "make", "pytest", "pip"} <= {command.words[0] for command in COMMANDS}
    assert {command.document for command in COMMANDS} >= {"README.md", "docs/index.md", "docs/add-a-method.md"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_a_document_exists(command: Command) -> None:
    assert problem_of(command) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("qdit tabel table2", "no command 'tabel'"),
        ("qdit bench kernel", "no command 'kernel'"),
        ("qdit ls --profil mini", "No such option"),
        ("qdit quantize weights.safetensors", "Missing"),
        ("qdit ab --each many", "valid integer"),
        ("snakemake --cores all table99", "no rule or table table99"),
        ("snakemake --cores all --configfile config/mimi.yaml", "no file config/mimi.yaml"),
        ("make reproduse", "no target reproduse"),
        ("pytest tests/nowhere", "no file tests/nowhere"),
        ("pip install 'qdit[everything]'", "no extra everything"),
        ("cd there && make lnit", "no target lnit"),
        ("qidt ls", "neither a tool of this repository"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str, words: str) -> None:
    assert words in problem_of(Command("README.md", line))


def test_qdit_lines_are_parsed_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check_qdit(Command("README.md", "qdit leaderboard --results results/nowhere")) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_the_prose_exist(document: str) -> None:
    """Of `qdit …` in a sentence, whose arguments may be words, the command and the names of its options."""
    for span in spans(document):
        words = span.split()
        if words[0] != "qdit" or len(words) == 1 or words[1].startswith("-"):
            continue
        try:
            command, rest = resolve([word for word in words[1:] if word != "…"])
        except KeyError as problem:
            raise AssertionError(f"{document}: `{span}`: no command {problem}") from None
        flags = {flag for word in rest for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", word)}
        assert flags <= options_of(command), f"{document}: `{span}`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_profiles_written_in_a_document_are_valid(document: str, tmp_path: Path) -> None:
    for name, content in titled(text_of(document)).items():
        if name.endswith(".yaml") and "baselines" not in content and document != "docs/add-a-method.md":
            overlay = tmp_path / name.replace("/", "-")
            overlay.write_text(content, encoding="utf-8")
            load_profile(overlay)


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


ROOMS = ("qdit/", "baselines/", "tests/", "rules/", "config/", "profiles/", "docs/", "weights/")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_tests_that_a_document_names_exist(document: str) -> None:
    made = set(titled(text_of(document)))
    for span in spans(document):
        path, _, test = span.partition("::")
        if not path.startswith(ROOMS) or re.search(r"[<>{}*\s…]|NAME", path) or path in made:
            continue
        if re.search(r"\bmy_method\b|test_my_method", path):  # what `qdit new method my-method` writes
            continue
        if path.startswith("weights/paper/"):  # where `qdit fetch` puts downloads
            continue
        assert (ROOT / path).exists(), f"{document}: `{span}`"
        assert not test or test in functions_in(path), f"{document}: `{span}`"
