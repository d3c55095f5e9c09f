"""Check the entries of `methods` that are not methods of this suite: tools, and imported images."""

from qdit.core.errors import ConfigError
from qdit.core.run import IMPORTED
from qdit.sampling.tools.registry import tools
from qdit.workflow.families import CLIPS, IMAGES, family_at
from qdit.workflow.profile_fields import Part
from qdit.workflow.profile_models import Block, MethodEntry, ProfileModel, Table
from qdit.workflow.searches import require

OF_TOOL = {"method", "tool", "about"}
OF_IMAGES = {"method", "images", "setting", "form", "about"}
KINDS = ("table2", "table5", "ptq4dit_table1", "tq_dit", "table3", "tools")
"""Kinds of tables with rows of tools and imported rows: a paper's comparisons, and tools."""


def is_ours(entry: MethodEntry) -> bool:
    """Return whether an entry is a method of this suite."""
    return entry.tool is None and entry.images is None


def check_row(profile: ProfileModel, entry: MethodEntry, where: str) -> None:
    """Raise ConfigError unless the entry of a tool or of images has the keys that it needs, and no others."""
    if entry.tool is not None and entry.images is not None:
        raise ConfigError(f"{where}: found tool and images; a row is one of the two, remove one")
    allowed = OF_IMAGES if entry.tool is None else OF_TOOL
    kind = "images" if entry.tool is None else "a tool"
    if excess := sorted(set(entry.keys()) - allowed):
        raise ConfigError(
            f"{where}: found {', '.join(excess)}; an entry of {kind} has {', '.join(sorted(allowed))} only"
        )
    named = entry.tool if entry.tool is not None else IMPORTED
    if entry.method != named:
        raise ConfigError(f"{where}.method: found {entry.method!r}; an entry of {kind} has {named!r}: leave it out")
    if entry.tool is not None:
        require(entry.tool, tools(), f"{where}.tool")
        return
    if missing := [key for key in ("setting", "form") if key not in entry]:
        raise ConfigError(f"{where}: missing {', '.join(missing)}: which rows the images stand beside; add it")
    require(str(entry.setting), profile.settings, f"{where}.setting")
    require(str(entry.form), profile.models[profile.settings[str(entry.setting)].model].forms, f"{where}.form")


def check_rows_of(profile: ProfileModel, table: Table, block: Block, where: str) -> None:
    """Raise ConfigError for tools or images in a table whose kind does not allow them.

    Also for images whose setting or form is not that of the block.
    """
    for label in block.methods:
        entry = profile.methods[label]
        if is_ours(entry):
            continue
        what = "images" if entry.tool is None else f"the tool {entry.tool}"
        if table.kind not in KINDS:
            raise ConfigError(
                f"{where}.methods: {label} is {what}; tables of kind {table.kind} have rows of methods only, allowed"
                f" are {', '.join(KINDS)}"
            )
        if entry.tool is not None:
            check_tool_block(profile, block, label, where)
            if not table.opt_in:
                raise ConfigError(
                    f"{where}.methods: {label} is a tool, whose environment is downloaded from PyPI; such a table needs"
                    " opt_in: true, so that it is made only when it is named"
                )
            continue
        if family_at(profile, block.setting) is CLIPS and scored_by_vbench(profile, block):
            raise ConfigError(
                f"{where}.methods: {label} has clips of another program; they are rows only where a model's own"
                " instruments score clips. VBench scores a folder of MP4 files itself (docs/vbench.md): remove it"
            )
        for key in ("setting", "form"):
            if entry[key] != block[key]:
                raise ConfigError(
                    f"{where}.methods: the images of {label} are of {key} {entry[key]}, the block is of {block[key]};"
                    " put the row into a block of its own"
                )
        if entry.images is not None and not set(entry.images) & set(block.bits):
            raise ConfigError(
                f"{where}.methods: {label} has images at {', '.join(entry.images)} only, the block has"
                f" {', '.join(block.bits)}; add the bits to either"
            )


def scored_by_vbench(profile: ProfileModel, block: Block) -> bool:
    """Return whether VBench itself, not mini-VBench, scores the clips of a block."""
    return "instruments" not in profile.models[profile.settings[block.setting].model]


def check_tool_block(profile: ProfileModel, block: Part, label: str, where: str) -> None:
    """Raise ConfigError for a tool in a block where tools cannot have rows."""
    if family_at(profile, block["setting"]) is not IMAGES:
        raise ConfigError(f"{where}.methods: {label} is a tool, and tools quantize DiTs only; remove it")
    if block["scope"] != "common":
        raise ConfigError(f"{where}.methods: {label} is a tool, and tools quantize scope common only; remove it")
    if "vae" in profile.models[profile.settings[block["setting"]].model] or profile.get("compute", {}).get("dtype"):
        raise ConfigError(
            f"{where}.methods: {label} is a tool, and tools are sampled in float32 pixels only; remove it from blocks"
            " of latents and of other precisions"
        )
