"""Where each method is written, read from the sources without importing them (torch takes seconds)."""

import ast
from dataclasses import dataclass
from functools import cache

from qdit.core.repository import ROOT


@dataclass(frozen=True)
class MethodSource:
    """Where a method is written, and the names of its options (None if they are not written in the same file)."""

    module: str
    options: tuple[str, ...] | None


@cache
def method_sources() -> dict[str, MethodSource]:
    """Method name → where it is written, read from the sources without importing them (torch takes seconds)."""
    found: dict[str, MethodSource] = {}
    for file in [*sorted((ROOT / "baselines").glob("*.py")), ROOT / "qdit" / "methods" / "q_dit.py"]:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in classes.values():
            values = {
                line.targets[0].id: line.value
                for line in node.body
                if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
            }
            name, options = values.get("name"), values.get("Options")
            if node.bases and isinstance(name, ast.Constant):
                written = classes.get(options.id) if isinstance(options, ast.Name) else None
                found[str(name.value)] = MethodSource(module, option_names(written) if written else None)
    return found


def option_names(options: ast.ClassDef) -> tuple[str, ...]:
    """Fields of a dataclass."""
    return tuple(
        line.target.id for line in options.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    )
