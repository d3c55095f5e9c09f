"""Read the names of the workflow's rules. A table must have another name, because it becomes a rule of its own."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT

RULE = re.compile(r"^ *(?:rule|checkpoint) (\w+) *:|^ *use rule \w+ as (\w+)\b", flags=re.MULTILINE)
NAMED = re.compile(r"^ *rule *:\s*name:\s*f\"(\w+)_\{", flags=re.MULTILINE)
"""A rule in a loop whose name begins with a word, such as `bench_kernels`."""


@cache
def rules_of(root: Path = ROOT) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the names of all rules of the workflow in `root`, and the first words of the names of rules in loops."""
    files = [root / "Snakefile", *sorted((root / "rules").rglob("*.smk"))]
    texts = [file.read_text(encoding="utf-8") for file in files]
    names = {name for text in texts for pair in RULE.findall(text) for name in pair if name}
    return frozenset(names), tuple(f"{word}_" for text in texts for word in NAMED.findall(text))


def require_free_names(tables: Iterable[str]) -> None:
    """Raise ConfigError for a table with the name of a rule. Snakemake would not plan such a workflow."""
    names, beginnings = rules_of()
    for table in tables:
        if table in names or table.startswith(beginnings):
            raise ConfigError(
                f"tables.{table}: {table!r} is the name of a step of the workflow, such as sample, claims or all; give"
                " the table another name"
            )
