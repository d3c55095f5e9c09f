"""Claims at the bits where damage begins: the same expressions, read from other rows of the same run.

The natural form of a miniature is hardly damaged at the papers' bits, so some claims cannot be told there. At `BITS`
round to nearest fails (docs/miniature.md). The verdicts at these bits stand in a column of their own, are never counted
with those at the papers' bits, and have their own control of the false discovery rate.

In an expression all bits but those of full precision become `BITS`. Rows of tables without bits among their keys are
the rows of the same methods at `BITS`. A loop over settings, steps or resolutions takes those that have such rows.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qdit.core.run import UNQUANTIZED
from qdit.report.claims.language import KEYS, Key
from qdit.report.claims.sources import Measured
from qdit.report.data.rows import is_full_precision, is_measured

BITS = "w4a4"
PLACES = ("setting", "steps", "resolution")
"""Keys of rows that say where a method ran. The others say what ran there."""
PATTERN = re.compile(r"w\d+a\d+")


def damaged(papers: Measured) -> Measured:
    """The rows of a run at `BITS`, in the places of its rows at the papers' bits."""
    return Measured(at_damage(papers.profile), papers.results, video_bits=(UNQUANTIZED, BITS))


def at_damage(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The profile with all rows of its tables at `BITS`; each block once."""
    tables = {}
    for name, definition in profile["tables"].items():
        blocks: list[Any] = []
        for block in definition["blocks"]:
            if (moved := {**block, "bits": [BITS]}) not in blocks:
                blocks.append(moved)
        tables[name] = {**definition, "blocks": blocks}
    return {**profile, "tables": tables}


def not_at_damage(table: str, form: str, expression: str) -> str:
    """Why a claim has no verdict at `BITS`; empty if it has one."""
    if form != "natural":
        return f"only the natural form is judged at {BITS.upper()}"
    if table == "table5":
        return "the claim is about activations alone (W16A8)"
    return f"the claim is about {BITS.upper()} already" if table == "methods" and BITS in expression else ""


class _AtBits(ast.NodeTransformer):
    """All bits replaced by `BITS`, but those of full precision."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(moved(node.value)) if isinstance(node.value, str) else node


def moved(key: Key) -> Key:
    """A key, or `BITS` if it is the bits of a quantized row."""
    is_bits = isinstance(key, str) and PATTERN.fullmatch(key) and key != UNQUANTIZED
    return BITS if is_bits else key


def at_bits(
    node: ast.expr, table: str, sets: Mapping[str, Sequence[Key]], source: Measured, papers: Measured
) -> tuple[ast.expr, dict[str, Sequence[Key]], tuple[Key, ...]]:
    """Expression and sets at `BITS`, and the places to which the loops of the expression had to be restricted.

    `source` reads the rows at `BITS`, `papers` those at the papers' bits. If no place has rows at `BITS`, the loops
    stay as they are, and the cells say what is missing.
    """
    known, present = places(papers, table), places(source, table, measured=True)
    named = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    changed: dict[str, Sequence[Key]] = {}
    restricted: dict[Key, None] = {}
    for name, keys in sets.items():
        changed[name] = list(dict.fromkeys(map(moved, keys)))
        kept = [key for key in keys if key in present]
        if name in named and kept and set(keys) <= known and kept != list(keys):
            changed[name] = kept
            restricted |= dict.fromkeys(kept)
    expression = _AtBits().visit(node)
    assert isinstance(expression, ast.expr)
    return expression, changed, tuple(restricted)


def places(source: Measured, table: str, *, measured: bool = False) -> set[Key]:
    """Settings, steps or resolutions at which a table has quantized rows, or measured ones only."""
    positions = [index for index, name in enumerate(KEYS[table]) if name in PLACES]
    quantized = {keys: row for keys, row in source.rows(table).items() if not is_full_precision(row)}
    return {keys[index] for keys, row in quantized.items() if is_measured(row) or not measured for index in positions}
