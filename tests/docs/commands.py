"""What the documents call: commands of their `sh` blocks and code spans, links, paths, and how each is checked."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import click
import typer
import yaml

from qdit.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
DOCUMENTS += [*sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]

TAKES_ONE = {"--cores", "--directory", "--report", "--workflow-profile", "--resources", "--jobs"}
"""Options of snakemake with one value; --configfile and --forcerun take several."""

ELSEWHERE = {
    "git": "clone",
    "pip": "install",
    "conda": "env",
    "cd": "",
    ".": "",
    "chromium": "",
    "docker": "",
    "apptainer": "",
    "python": "",
    "python3": "",
}
"""Other programs' commands, whose own arguments are not ours to check."""


@dataclass(frozen=True)
class Command:
    """One command line of a document."""

    document: str
    line: str

    @property
    def words(self) -> list[str]:
        """Its words without a comment and without variables set before it."""
        words = shlex.split(self.line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        words[:1] = [word.removeprefix(".venv/bin/") for word in words[:1]]
        return words[2:] if words[:2] == ["python", "-m"] else words

    def __str__(self) -> str:
        return f"{self.document}: {self.line}"


def text_of(document: str) -> str:
    """The document's source."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def titled(text: str) -> dict[str, str]:
    """Path → content of the code blocks whose opening line names a file."""
    return dict(re.findall(r'^```\w+ title="([^"\n]+)"\n(.*?)^```$', text, flags=re.MULTILINE | re.DOTALL))


def commands_of(document: str) -> list[Command]:
    """Every command line of the document's `sh` blocks and indented blocks, lines that go on put together."""
    text = text_of(document)
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^    ((?:qdit|snakemake|make) .+)$", prose(text), flags=re.MULTILINE)
    return [command for line in lines if (command := Command(document, line.strip())).words]


def prose(text: str) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def spans(document: str) -> list[str]:
    """Code spans of the prose, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text_of(document)))]


@cache
def qdit_command() -> click.Command:
    """The tree of commands as it is called."""
    return typer.main.get_command(app)


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words call, and what is left for it; a word that no group knows raises KeyError."""
    command, rest = qdit_command(), list(words)
    while isinstance(found := getattr(command, "commands", None), dict) and rest and not rest[0].startswith("-"):
        command = found[rest.pop(0)]
    return command, rest


def options_of(command: click.Command) -> set[str]:
    """Names of its options."""
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help", "-h"}


def check_qdit(command: Command) -> str:
    """What is wrong with a `qdit …` line, empty if nothing is."""
    try:
        found, rest = resolve(command.words[1:])
        found.make_context("qdit", rest)
    except KeyError as problem:
        return f"no command {problem}"
    except Exception as problem:
        return f"{type(problem).__name__}: {getattr(problem, 'message', problem)}"
    return ""


@cache
def rule_names() -> frozenset[str]:
    """Names that rules have, as they are written or as the profiles' tables and the benches give them."""
    sources = [ROOT / "Snakefile", *sorted((ROOT / "rules").rglob("*.smk"))]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    names = set(re.findall(r"^(?:rule|checkpoint) (\w+):", text, flags=re.MULTILINE))
    names |= set(re.findall(r"^use rule \w+ as (\w+) with:", text, flags=re.MULTILINE))
    benches = re.search(r"^BENCHES = \[(.*?)\]", text, flags=re.MULTILINE)
    names |= {f"bench_{name}" for name in re.findall(r'"(\w+)"', benches[1] if benches else "")}
    return frozenset(names)


def tables_in(source: str) -> set[str]:
    """Names of the tables of a profile's YAML."""
    return set((yaml.safe_load(source) or {}).get("tables") or {})


def check_snakemake(command: Command) -> str:
    """What is wrong with a `snakemake …` line: configuration files, options, targets."""
    files, targets, words = ["config/mini.yaml"], [], command.words[1:]
    own = titled(text_of(command.document))
    while words:
        word = words.pop(0)
        if word == "--configfile":
            while words and words[0].endswith(".yaml"):
                files.append(words.pop(0))
        elif word == "--forcerun":
            while words and not words[0].startswith("-"):
                targets.append(words.pop(0))
        elif word in TAKES_ONE:
            words = words[1:]
        elif not word.startswith("-"):
            targets.append(word)
    missing = [name for name in files if name not in own and not (ROOT / name).is_file()]
    if missing:
        return f"no file {', '.join(missing)}"
    sources = [own[name] if name in own else (ROOT / name).read_text(encoding="utf-8") for name in files]
    known = rule_names().union(*map(tables_in, sources))
    unknown = [target for target in targets if target not in known and not target.startswith("results/")]
    return f"no rule or table {', '.join(unknown)}" if unknown else ""


def check_make(command: Command) -> str:
    """What is wrong with a `make …` line."""
    known = set(
        re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    unknown = [word for word in command.words[1:] if "=" not in word and word not in known]
    return f"no target {', '.join(unknown)}" if unknown else ""


def check_paths(command: Command) -> str:
    """What is wrong with the paths that a tool of the repository is given."""
    own = titled(text_of(command.document))
    given = [word for word in command.words[1:] if not word.startswith("-") and ("/" in word or "." in word)]
    given = [path for path in given if "my_method" not in path]  # `qdit new method my-method` writes it
    missing = [path for path in given if path not in own and not (ROOT / path.partition("::")[0]).exists()]
    return f"no file {', '.join(missing)}" if missing else ""


def check_pip(command: Command) -> str:
    """What is wrong with a `pip install` line: requirements that are not there, extras that do not exist."""
    words = command.words
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for flag, value in pairwise(words):
        if flag in ("-r", "--requirement") and not (ROOT / value).is_file():
            return f"no file {value}"
    asked = re.findall(r"(?:qdit|\.)\[(\w+)\]", command.line)
    return ", ".join(f"no extra {name}" for name in asked if name not in extras)


CHECKS = {"qdit": check_qdit, "snakemake": check_snakemake, "make": check_make, "pip": check_pip}
CHECKS |= dict.fromkeys(("pytest", "ruff", "snakefmt", "lint-imports", "mkdocs"), check_paths)


def problem_of(command: Command) -> str:
    """What is wrong with a command line, empty if nothing is; parts joined by && or ; are each checked."""
    for part in re.split(r"\s*(?:&&|;)\s*", command.line.split(" #")[0]):
        one = Command(command.document, part)
        tool = one.words[0] if one.words else ""
        if tool in CHECKS:
            if found := CHECKS[tool](one):
                return found
        elif tool not in ELSEWHERE:
            return f"{tool!r}: neither a tool of this repository nor one that is known to be elsewhere"
    return ""


def links_of(document: str) -> Iterator[str]:
    """Targets of the links and pictures of the prose."""
    text = re.sub(r"`[^`]+`", "", prose(text_of(document)))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
