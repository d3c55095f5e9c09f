"""Make the tables in which papers compare methods at several bits: one block per setting.

`COMPARISONS` describes each paper's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError
from qdit.core.metrics import compared, shown_on
from qdit.core.run import Run
from qdit.report.data.faces import face_of_table
from qdit.report.data.lossless import COLUMN, PERCENT, gate_note, with_gate
from qdit.report.data.published import PublishedRow, find, method_names, read_published
from qdit.report.data.rows import (
    Block,
    Table,
    describe_protocol,
    describe_setting,
    fitted_labels,
    group_text,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)
from qdit.report.data.sizes import REAL_SIZES, real_sizes

PUBLISHED_KEYS = {"resolution", "steps", "cfg_scale"}
"""Keys that identify a printed setting; a block gives all of them or none."""


@dataclass(frozen=True)
class Specification:
    """What we must know about one paper's table: its title, its protocol in words, its sampler.

    `protocol` holds facts that all printed rows share, so their CSV does not repeat them. `printed_names` maps our
    names of methods to the names that this paper prints.
    """

    title: str
    paper_protocol: str
    sampler: str
    protocol: Mapping[str, float] = field(default_factory=dict)
    printed_names: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    real_sizes: bool = False


COMPARISONS = {
    "table2": Specification(
        title="Image generation after quantization (Q-DiT, Table 2)",
        paper_protocol="DiT-XL/2 on ImageNet, DDIM, 10,000 images",
        sampler="ddim",
        remarks=(
            "Size, DiT-XL/2: the paper’s formula at its model’s shapes, with this row’s bits and groups; cut, not"
            " rounded, as printed. DiT-XL/2 on disk: the size of our checkpoint of float32 weights, with the layers"
            " that scope common does not quantize. Both are computed, without a run. The paper’s sizes of Q-DiT are of"
            " searched groups.",
        ),
        real_sizes=True,
    ),
    "table5": Specification(
        title="Quantized activations alone (Q-DiT, Table 5)",
        paper_protocol="DiT-XL/2 on ImageNet 256×256, DDIM, 100 steps, guidance (cfg) 1.5, 10,000 images",
        sampler="ddim",
        protocol={"resolution": 256, "steps": 100, "cfg_scale": 1.5},
    ),
    "ptq4dit_table1": Specification(
        title="Image generation with fewer and fewer steps (PTQ4DiT, Table 1)",
        paper_protocol="DiT-XL/2 on ImageNet 256×256, DDPM, guidance (cfg) 1.5, 10,000 images",
        sampler="ddpm",
        printed_names={"RepQ-ViT": "RepQ*"},
        remarks=("RepQ-ViT stands beside the paper’s row RepQ*.",),
    ),
    "tq_dit": Specification(
        title="Image generation after quantization (TQ-DiT’s comparison)",
        paper_protocol="DiT-XL/2 on ImageNet 256×256, DDPM, 250 steps, guidance (cfg) 1.5",
        sampler="ddpm",
    ),
}
"""Kinds of tables, each with its printed numbers in results/published/<kind>.csv."""


def comparison(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """Make the table `name`; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    specification = COMPARISONS[definition["kind"]]
    printed = [
        {**specification.protocol, **row} for row in read_published(published / f"{definition['kind']}.csv")
    ]  # what a CSV leaves unsaid is the same in all of its rows
    pairs = [(block, _block(profile, definition, block, results, printed)) for block in definition["blocks"]]
    unmatched = [name for block, loaded in pairs for name in _unmatched(printed, block, loaded)]
    return Table(
        name=name,
        title=definition.get("title", specification.title),
        profile=profile["profile"],
        face=face_of_table(profile, definition),
        miniature=is_miniature(profile),
        paper_protocol=specification.paper_protocol,
        shows_bits=True,
        blocks=tuple(loaded for _, loaded in pairs),
        unmatched=tuple(dict.fromkeys(unmatched)),
        metrics=(*shown_on("paper"), COLUMN),
        remarks=(*specification.remarks, gate_note(percent_of(profile)), *_blanks(printed)),
        extra=(*(REAL_SIZES if specification.real_sizes else ()), COLUMN),
    )


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    printed: list[PublishedRow],
) -> Block:
    specification = COMPARISONS[definition["kind"]]
    fitted, rows = fitted_labels(definition, block), []
    for key in run_keys(profile, block):
        match = _match(specification, printed, block, key)
        row = make_row(profile, results, key, fitted=key.label in fitted, published=match)
        if row["group_size"] is not None:
            row["detail"] = group_text(row)
        if specification.real_sizes:
            row |= real_sizes(row, profile["methods"][key.label])
        rows.append(row | {"short": f"{key.bits.upper()} {row['short']}"})
    with_gate(rows, percent_of(profile))
    bits = ", ".join(bits.upper() for bits in block["bits"])
    title = f"{describe_setting(profile, block)} · {bits} · {block['form']} form"
    return Block(title=title, about=_about(specification, block), rows=with_differences(rows))


def percent_of(profile: Mapping[str, Any]) -> float:
    """Return the x of “lossless: within x % of full precision” (`qdit.report.data.lossless`)."""
    return float(profile.get("lossless_percent", PERCENT))


def _match(
    specification: Specification, printed: list[PublishedRow], block: Mapping[str, Any], key: Run
) -> PublishedRow | None:
    """The printed row of a run: same protocol (as the block says), bits and method name."""
    if "published" not in block or key.label not in method_names():
        return None
    if set(block["published"]) != PUBLISHED_KEYS:
        raise ConfigError(
            f"block {block['setting']!r}: published has {', '.join(sorted(block['published'])) or 'no keys'},"
            f" expected {', '.join(sorted(PUBLISHED_KEYS))}; correct the profile"
        )
    bits = {"weight_bits": key.weight_bits, "activation_bits": key.activation_bits}
    name = method_names()[key.label]
    return find(printed, **block["published"], **bits, method=specification.printed_names.get(name, name))


def _unmatched(printed: list[PublishedRow], block: Mapping[str, Any], loaded: Block) -> list[str]:
    """Methods that the paper prints at a block's bits and that the block does not have."""
    wanted = block.get("published")
    if wanted is None:
        return []
    shown = {(row.get("published_method"), row["weight_bits"], row["activation_bits"]) for row in loaded.rows}
    return [
        str(row["method"])
        for row in printed
        if all(row[name] == value for name, value in wanted.items())
        and f"w{row['weight_bits']}a{row['activation_bits']}" in block["bits"]
        and (row["method"], row["weight_bits"], row["activation_bits"]) not in shown
    ]


def _blanks(printed: list[PublishedRow]) -> tuple[str, ...]:
    """The note about printed numbers that our copy of the paper lacks, if there are any."""
    unknown = any(row[name] is None for row in printed for name in compared() if name in row)
    return ("Published cells that our copy of the paper lacks stay blank.",) if unknown else ()


def _about(specification: Specification, block: Mapping[str, Any]) -> str:
    """The setting's name and the corresponding setting of the paper."""
    ours = f"{block['setting']}, scope {block['scope']}"
    wanted = block.get("published")
    if wanted is None:
        return f"{ours}; the paper has no such block"
    size = wanted["resolution"]
    protocol = describe_protocol(int(wanted["steps"]), specification.sampler, wanted["cfg_scale"])
    return f"{ours}; beside it the paper's ImageNet {size}×{size}, {protocol}"
