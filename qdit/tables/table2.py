"""Table 2 of Q-DiT: image generation by method and bits, one block per setting."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.errors import ConfigError
from qdit.tables.published import METHOD_NAMES, PublishedRow, find, read_published
from qdit.tables.results import RunKey
from qdit.tables.rows import (
    Block,
    Table,
    describe_protocol,
    describe_setting,
    fitted_labels,
    is_miniature,
    make_row,
    run_keys,
    with_differences,
)

PUBLISHED_KEYS = {"resolution", "steps", "cfg_scale"}
"""What tells the paper's settings apart; a block names all of them or none."""


def table2(profile: Mapping[str, Any], name: str, results: Path, published: Path) -> Table:
    """The table `name` of a profile; `results` is the profile's folder, `published` the folder of printed numbers."""
    definition = profile["tables"][name]
    printed = read_published(published / "table2.csv")
    blocks = tuple(_block(profile, definition, block, results, printed) for block in definition["blocks"])
    shown = {(row.get("published_method"), row["weight_bits"]) for block in blocks for row in block.rows}
    of_blocks = [row for block in definition["blocks"] for row in _printed_rows(printed, block)]
    unmatched = dict.fromkeys(str(r["method"]) for r in of_blocks if (r["method"], r["weight_bits"]) not in shown)
    return Table(
        name=name,
        title="Image generation after quantization (Q-DiT, Table 2)",
        profile=profile["profile"],
        face=profile["face"],
        miniature=is_miniature(profile),
        paper_protocol="DiT-XL/2 on ImageNet, DDIM, 10,000 images",
        shows_bits=True,
        blocks=blocks,
        unmatched=tuple(unmatched),
    )


def _block(
    profile: Mapping[str, Any],
    definition: Mapping[str, Any],
    block: Mapping[str, Any],
    results: Path,
    printed: list[PublishedRow],
) -> Block:
    fitted, rows = fitted_labels(definition, block), []
    for key in run_keys(profile, block):
        row = make_row(profile, results, key, fitted=key.label in fitted, published=_match(printed, block, key))
        if row["group_size"] is not None:
            row["detail"] = group_text(row)
        rows.append(row | {"short": f"{key.bits.upper()} {row['name']}"})
    bits = ", ".join(bits.upper() for bits in block["bits"])
    title = f"{describe_setting(profile, block)} · {bits} · {block['form']} form"
    return Block(title=title, about=_about(block), rows=with_differences(rows))


def _match(printed: list[PublishedRow], block: Mapping[str, Any], key: RunKey) -> PublishedRow | None:
    """The printed row of a run: same protocol (as the block says), bits and method name."""
    if "published" not in block or key.label not in METHOD_NAMES:
        return None
    if set(block["published"]) != PUBLISHED_KEYS:
        raise ConfigError(
            f"table2 block {block['setting']!r}: published has {', '.join(sorted(block['published'])) or 'no keys'},"
            f" expected {', '.join(sorted(PUBLISHED_KEYS))}; correct the profile"
        )
    bits = {"weight_bits": key.weight_bits, "activation_bits": key.activation_bits}
    return find(printed, **block["published"], **bits, method=METHOD_NAMES[key.label])


def _printed_rows(printed: list[PublishedRow], block: Mapping[str, Any]) -> list[PublishedRow]:
    """What the paper prints for a block at the bits it shows."""
    wanted = block.get("published")
    if wanted is None:
        return []
    return [
        row
        for row in printed
        if all(row[name] == value for name, value in wanted.items())
        and f"w{row['weight_bits']}a{row['activation_bits']}" in block["bits"]
    ]


def _about(block: Mapping[str, Any]) -> str:
    """The setting's name, and what of the paper stands beside it."""
    ours = f"{block['setting']}, scope {block['scope']}"
    wanted = block.get("published")
    if wanted is None:
        return f"{ours}; the paper has no such block"
    size = wanted["resolution"]
    protocol = describe_protocol(int(wanted["steps"]), "ddim", wanted["cfg_scale"])
    return f"{ours}; beside it the paper's ImageNet {size}×{size}, {protocol}"


def group_text(row: Mapping[str, Any]) -> str:
    """`g 16 (paper's 128)`: the group size and the one it stands for."""
    ours, paper = row["group_size"], row["paper_group_size"]
    return f"g {ours}" if paper in (None, ours) else f"g {ours} (paper’s {paper})"
