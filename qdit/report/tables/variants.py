"""Make the table that compares a method with its variants: ablations, and options that follow the paper or its code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.metrics import shown_on
from qdit.core.ranking import ranking_metric
from qdit.report.data.faces import face_of_table
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import printed_name
from qdit.report.data.rows import (
    Block,
    Table,
    describe_setting,
    fitted_labels,
    group_text,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)

EXTRA = ("base", "about", "ratio_fd_fp")
"""Columns of the CSV beyond those of every table."""


def variants(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder. No printed numbers stand beside ours."""
    definition = profile["tables"][name]
    return Table(
        name=name,
        title=definition.get("title", f"Variants of methods ({name})"),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol="",
        shows_bits=True,
        blocks=tuple(_block(profile, name, block, results) for block in definition["blocks"]),
        metrics=shown_on("variants"),
        extra=EXTRA,
        remarks=(
            "FD-FP ÷ base: a row’s FD-FP divided by that of the block’s base method at the same bits; above 1 the"
            " variant is farther from full precision by FD-FP. The sentence at the top counts by"
            f" {ranking_metric().title}, which can disagree.",
        ),
    )


def _block(profile: Mapping[str, Any], name: str, block: Mapping[str, Any], results: Path) -> Block:
    base = str(block.get("base"))
    if base not in block["methods"]:
        raise ConfigError(f"table {name!r}: base {base!r} is not among its block's methods; add it to them")
    fitted = fitted_labels(profile["tables"][name], block)
    rows = [
        make_row(profile, results, key, fitted=key.label in fitted, published=None)
        for key in run_keys(profile, {**block, "methods": _ordered(block["methods"], base)})
    ]
    for row in rows:
        about = profile["methods"][row["label"]].get("about")
        row |= {"base": base, "about": about, "ratio_fd_fp": _ratio(row, rows, base)}
        row["detail"] = _detail(row, base)
        if len(block["bits"]) > 1:
            row["short"] = f"{row['key'].bits.upper()} {row['short']}"
    base_name = printed_name(base)
    bits = ", ".join(bits.upper() for bits in block["bits"])
    return Block(
        title=f"{base_name} · {bits} · {describe_setting(profile, block)} · {block['form']} form",
        about=f"{block['setting']}, scope {block['scope']}; base {base_name}",
        rows=with_differences(rows),
    )


def _ordered(methods: list[str], base: str) -> list[str]:
    """The base before its variants."""
    return [base, *(label for label in methods if label != base)]


def _detail(row: Row, base: str) -> str:
    """Details of a row: its label if the name does not show it, whether it is the base, its group size."""
    if row.get("about"):
        return str(row["label"])
    group = group_text(row) if row["group_size"] is not None else ""
    return ", ".join(text for text in ("base" if row["label"] == base else "", group) if text)


def _ratio(row: Row, rows: list[Row], base: str) -> float | None:
    """FD-FP divided by that of the base row at equal bits; None if one is unknown or the base's is 0."""
    bits = (row["weight_bits"], row["activation_bits"])
    value = row.get("fd_fp")
    against = next(
        (
            other.get("fd_fp")
            for other in rows
            if other["label"] == base and (other["weight_bits"], other["activation_bits"]) == bits
        ),
        None,
    )
    return None if value is None or not against else round(value / against, 10)
