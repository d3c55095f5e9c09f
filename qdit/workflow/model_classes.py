"""Write the text of `qdit models`: which of the weights in diffusers' transformers have a role that methods can find.

There is a line for each class, or a text about one class with the share of each role.
"""

from collections.abc import Sequence

from qdit.models.generic.census import Coverage

HEADINGS = ("class", "with a role", "in blocks", "blocks", "without a role")
SHOWN = 3
"""Layers without a role that a line names."""

INTRODUCTION = """# Transformers of diffusers, and their roles

> Words such as *role* and *scope*: [glossary](glossary.md)

A method of this suite quantizes a layer only if it knows the *role* of the layer, such as `qkv` or `fc1`. This page
says for each transformer class of diffusers how many of its weights lie in layers with a role. `qdit models --markdown`
wrote the page. [Quantize any transformer](any-model.md) explains how to give a layer a role.

Each class was built with its default settings. Four classes need other settings (`SETTINGS` in
`qdit/models/generic/census.py`). To save time, each list of blocks of a class has two blocks or fewer.
A class can have several such lists. The shares count only the weights of linears and convolutions.

| column | meaning |
|---|---|
| with a role | the share of the weights that lies in layers with a role |
| in blocks | the share of the weights that scope `common` quantizes. It is larger for a model of full depth |
| blocks | the number of blocks in which at least one layer has a role |
| without a role | the layers without a role. "Not built": the default settings build no model; the error follows |
"""


def cells(coverage: Coverage) -> tuple[str, ...]:
    """Return the cells of a class's row in the table."""
    if coverage.problem:
        return coverage.class_name, "-", "-", "-", f"not built: {coverage.problem}"
    more = len(coverage.missing) - SHOWN
    missing = ", ".join(coverage.missing[:SHOWN]) + (f" and {more} more" if more > 0 else "")
    return (
        coverage.class_name,
        percent(coverage.share),
        percent(coverage.core_share),
        str(coverage.blocks),
        missing or "-",
    )


def percent(share: float) -> str:
    """Write a share in percent with one digit, rounded down, so that only a complete share is 100.0 %."""
    return f"{int(share * 1000) / 10:.1f} %"


def classes_text(coverages: Sequence[Coverage]) -> str:
    """Write a line for each transformer class of diffusers."""
    rows = [HEADINGS, *map(cells, coverages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, summary(coverages), "`qdit models CLASS` shows the roles of a class"])


def summary(coverages: Sequence[Coverage]) -> str:
    """Write the number of classes, and the number of classes in which most weights have a role."""
    built = [coverage for coverage in coverages if not coverage.problem]
    full, most = (sum(coverage.share >= share for coverage in built) for share in (0.99, 0.9))
    return f"{len(coverages)} classes: {full} have roles for at least 99 % of their weights, {most} for at least 90 %"


def classes_markdown(coverages: Sequence[Coverage]) -> str:
    """Return docs/model-classes.md, the page about all classes, as Markdown."""
    rows = [f"| {' | '.join(quoted(row))} |" for row in map(cells, coverages)]
    head = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    return "\n".join([INTRODUCTION, f"{summary(coverages)}.\n", *head, *rows])


def quoted(row: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cells with the name of the class marked as code."""
    return (f"`{row[0]}`", *row[1:])


def class_text(coverage: Coverage) -> str:
    """Write the text about one class: roles with their share of the weights, and layers without a role."""
    if coverage.problem:
        return f"{coverage.class_name}: cannot be built with default settings ({coverage.problem})"
    lines = [
        f"{coverage.class_name}: {percent(coverage.share)} of the weights have a role,"
        f" {percent(coverage.core_share)} are in linears of blocks (scope common)",
        f"pipeline: {coverage.pipeline or 'not stated'}",
        "roles, with their share of the weights:",
        *(f"  {role:<14} {percent(number / coverage.weights)}" for role, number in coverage.roles.items()),
        "without a role:",
        *(f"  {path}" for path in coverage.missing or ("none",)),
    ]
    return "\n".join(lines)
