"""The claims at W4A4, where damage begins: the same expressions, evaluated on other rows of the same run.

At the papers' bits the natural form of a miniature is hardly damaged, so some claims cannot be told. At `BITS` (W4A4)
round to nearest fails (docs/miniature.md). The verdicts at W4A4 stand in a separate column. They are not counted with
the verdicts at the papers' bits, and the false discovery rate is controlled for them separately.

In an expression all bits become `BITS`, except the bits of full precision. Tables whose claims name no bits are read at
`BITS` for the same methods. A loop over settings, steps or resolutions skips those that have no row at `BITS`.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from qdit.core.run import UNQUANTIZED
from qdit.report.claims.language import KEYS, Key
from qdit.report.claims.sources import Measured
from qdit.report.data.rows import is_full_precision

BITS = "w4a4"
PLACES = ("setting", "steps", "resolution")
"""Keys of rows that say where a method ran. The others say what ran there."""
PATTERN = re.compile(r"w\d+a\d+")


def damaged(papers: Measured) -> Measured:
    """Return the tables of a run in which each row at the papers' bits is replaced by the row at `BITS` (W4A4)."""
    return papers.like(profile=at_damage(papers.profile), video_bits=(UNQUANTIZED, BITS))


def at_damage(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Return the profile with `BITS` as the only bits of all tables. Blocks that become equal are kept once."""
    tables = {}
    for name, definition in profile["tables"].items():
        blocks: list[Any] = []
        for block in definition["blocks"]:
            if (moved := {**block, "bits": [BITS]}) not in blocks:
                blocks.append(moved)
        tables[name] = {**definition, "blocks": blocks}
    return {**profile, "tables": tables}


def not_at_damage(table: str, form: str, expression: str) -> str:
    """Return the reason why a claim is not judged at `BITS` (W4A4); an empty text if it is judged."""
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
    """Replace a key of a row by `BITS` if it is the bits of a quantized row; return any other key unchanged."""
    is_bits = isinstance(key, str) and PATTERN.fullmatch(key) and key != UNQUANTIZED
    return BITS if is_bits else key


def at_bits(
    node: ast.expr, table: str, sets: Mapping[str, Sequence[Key]], source: Measured, papers: Measured
) -> tuple[ast.expr, dict[str, Sequence[Key]], tuple[Key, ...]]:
    """Rewrite the expression of a claim for `BITS` (W4A4). `sets` maps each of its loop variables to the keys.

    Return the expression, the new sets, and the kept keys. A loop over settings, steps or resolutions leaves out keys
    without a measured row at `BITS`. The kept keys are those of shortened loops; they are empty if no loop was
    shortened. If no key of a loop has a measured row, this loop stays complete. `source` has the rows at `BITS`,
    `papers` the rows at the papers' bits.
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
    """Return the settings, steps or resolutions of a table's quantized rows; with `measured`, only of measured rows."""
    positions = [index for index, name in enumerate(KEYS[table]) if name in PLACES]
    quantized = {keys: row for keys, row in source.rows(table).items() if not is_full_precision(row)}
    return {keys[index] for keys, row in quantized.items() if source.has(row) or not measured for index in positions}
