"""Write the text of `qdit methods`: a line for each method, or one method with its options."""

import json
from typing import Any

from qdit.core.modules import shown
from qdit.workflow.method_index import MethodFacts, method_facts, method_index

HEADINGS = ("method", "in tables", "calibration", "rounding", "options", "file")


def methods_text() -> str:
    """Write a line for each method, and a line for each file that cannot be used."""
    index = method_index()
    rows = [HEADINGS, *(row_of(facts) for facts in index.methods.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    broken = [f"broken: {file.reason}" for file in index.broken]
    return "\n".join([*lines, *broken, "`qdit methods NAME` shows a method's options"])


def row_of(facts: MethodFacts) -> tuple[str, ...]:
    """Return the cells of the line about a method."""
    rounding = "learned" if facts.learns_rounding else "-"
    options = "unknown" if facts.options is None else ", ".join(facts.options) or "-"
    return facts.name, facts.printed, ", ".join(facts.calibration) or "-", rounding, options, shown(facts.path)


def method_text(name: str) -> str:
    """Write about one method: its purpose, its needs, its options with types and defaults as JSON, its citation."""
    facts = method_facts(name)
    lines = [f"{facts.name} ({facts.printed}): {' '.join(facts.about.split())}"]
    lines.append(f"file: {shown(facts.path)}")
    lines.append(f"calibration: {calibration_text(facts)}")
    lines.append(f"learned rounding: {'yes' if facts.learns_rounding else 'no'}")
    if facts.base is not None:
        lines.append(f"corrects: the checkpoint of {facts.base}, if one is given (--base)")
    lines += [*options_lines(facts), "citation:", facts.citation or "none"]
    return "\n".join(lines)


def calibration_text(facts: MethodFacts) -> str:
    """Write which kinds of calibration data a method needs, and which options make a kind unnecessary."""
    words = []
    for kind in facts.calibration:
        idle = [f"{name} {as_json(value)}" for unused, name, value in facts.calibration_unused if unused == kind]
        words.append(kind + (f" (not with {' or '.join(idle)})" if idle else ""))
    return ", ".join(words) or "none"


def options_lines(facts: MethodFacts) -> list[str]:
    """Write a line for each option, with the description from the class."""
    if facts.options is None:
        return ["options: not known, since their class cannot be read without importing it"]
    if not facts.options:
        return ["options: none"]
    rows = [
        (name, option.type, as_json(option.default) if option.known else str(option.default), option.about)
        for name, option in facts.options.items()
    ]
    name, kind, default = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [f"  {row[0]:<{name}}  {row[1]:<{kind}}  {row[2]:<{default}}  {row[3]}".rstrip() for row in rows]
    about = [f"  {line}".rstrip() for line in facts.options_about.splitlines()]
    return ["options (name, type, default as JSON):", *lines, *about]


def as_json(value: Any) -> str:
    """Write a default value as in a profile or after --options."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return repr(value)
