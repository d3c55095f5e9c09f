"""Check that every name which a part of a profile uses is defined by another part."""

import reprlib
from collections.abc import Iterable
from typing import Any

from qdit.core.errors import ConfigError
from qdit.workflow.families import CLIP_KEYS, CLIPS, PIPELINES, family_at, family_of
from qdit.workflow.method_index import method_index
from qdit.workflow.method_options import check_method_options
from qdit.workflow.profile_facts import (
    BUILT_IN_REFERENCES,
    clips_of,
    full_precision_label,
    is_full,
)
from qdit.workflow.profile_models import PRINTED_KINDS, Block, MethodEntry, Model, ProfileModel, Setting, Table
from qdit.workflow.profile_pipelines import check_pipeline, check_pipeline_model
from qdit.workflow.profile_rows import check_row, check_rows_of, is_ours
from qdit.workflow.replicates import check_replicates
from qdit.workflow.searches import check_method_search, check_searches, require, search_run_of

RECTIFIED_FLOW = "rectified-flow"
"""Sampler of video models."""
MOST_BITS = dict.fromkeys(("table1", "table4", "table6", "transfer", "qc"), 1)
"""Kinds of tables whose blocks have one bit width."""
METHODS: dict[str, tuple[int, int | None]] = {"table4": (1, 6), "qc": (2, 2)}
"""Kinds of tables → how many methods a block has: the five printed steps, the last in two forms; the two controls."""


def check_references(profile: ProfileModel) -> None:
    """Raise ConfigError unless every name that a part of the profile uses is defined in the profile."""
    for name, model in profile.models.items():
        check_model(profile, model, f"models.{name}")
    for name, setting in profile.settings.items():
        require(setting.model, profile.models, f"settings.{name}.model")
        check_sampler(profile, name, setting)
    if profile.video is not None:
        clips_of(profile)
    check_files(profile)
    check_searches(profile)
    for label, entry in profile.methods.items():
        if is_ours(entry):
            check_method(entry, f"methods.{label}")
        else:
            check_row(profile, entry, f"methods.{label}")
        check_method_search(profile, label)
        check_corrected(profile, label)
    full_precision_label(profile)
    for name, table in profile.tables.items():
        check_table(profile, table, f"tables.{name}")
    check_replicates(profile)


def check_corrected(profile: ProfileModel, label: str) -> None:
    """Raise ConfigError unless the `base` of a method's entry is an entry of the method that it corrects.

    No entry may correct itself, also not by way of others: no job could be the first.
    """
    base, where = profile.methods[label].base, f"methods.{label}.base"
    if base is None:
        return
    require(base, profile.methods, where)
    facts = method_index().methods.get(profile.methods[label].method)
    if facts is not None and facts.base is None:
        raise ConfigError(f"{where}: found {base!r}, but {facts.name} corrects no other method; remove it")
    if facts is not None and (method := profile.methods[base].method) != facts.base:
        raise ConfigError(f"{where}: {base} is an entry of {method}, {facts.name} corrects {facts.base}; name one")
    corrected = [label]
    while base is not None:
        if base in corrected:
            raise ConfigError(f"{where}: {' corrects '.join([*corrected, base])}; name an entry that needs no other")
        corrected.append(base)
        require(base, profile.methods, f"methods.{corrected[-2]}.base")
        base = profile.methods[base].base


def check_table(profile: ProfileModel, table: Table, table_path: str) -> None:
    """Raise ConfigError unless the blocks of a table fit its kind and name only what the profile defines."""
    check_kind(profile, table, table_path)
    for label in table.fitted:
        require(label, profile.methods, f"{table_path}.fitted")
    for index, block in enumerate(table.blocks):
        where = f"{table_path}.blocks[{index}]"
        require(block.setting, profile.settings, f"{where}.setting")
        require(block.form, profile.models[profile.settings[block.setting].model].forms, f"{where}.form")
        for label in [*block.methods, *block.fitted]:
            require(label, profile.methods, f"{where}.methods")
        check_family(profile, table, block, where)
        check_rows_of(profile, table, block, where)


def check_model(profile: ProfileModel, model: Model, where: str) -> None:
    """Raise ConfigError unless a model has all keys that its samples need.

    It needs an extractor and a reference (images), or instruments (clips of pixels), or a text encoder and a VAE (clips
    of latents, which VBench scores).
    """
    if family_of(model) is CLIPS:
        check_video_model(profile, model, where)
        return
    if model.pipeline is not None:
        check_pipeline_model(model, where)
    elif profile.get("compute", {}).get("dtype") == "bfloat16":
        raise ConfigError(f"compute.dtype: found 'bfloat16', {where} is a DiT; allowed for it are float32, float16")
    if missing := [name for name in ("extractor", "reference") if name not in model]:
        raise ConfigError(
            f"{where}: missing {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}, or instruments if it"
            " is a video model"
        )
    require(model["extractor"], list(profile.extractors), f"{where}.extractor")
    require(model["reference"], [*BUILT_IN_REFERENCES, *profile.references], f"{where}.reference")


def check_video_model(profile: ProfileModel, model: Model, where: str) -> None:
    """Raise ConfigError unless a video model has all keys that it needs and no others."""
    mark = next(name for name in CLIP_KEYS if name in model)
    needed = [mark, *CLIP_KEYS[mark]]
    if excess := [name for name in sorted(model.model_fields_set) if name not in ("forms", *needed)]:
        raise ConfigError(
            f"{where}: found {mark} and {', '.join(excess)}; a video model with {mark} has {' and '.join(needed)} only;"
            f" remove {', '.join(excess)}"
        )
    if missing := [name for name in needed if name not in model]:
        raise ConfigError(
            f"{where}: found {mark} without {missing[0]}; a model of clip latents needs both; add {missing[0]}"
        )
    if profile.video is None:
        raise ConfigError(
            f"{where}: found {mark}, which makes it a video model, but the profile has no key video; add it"
        )


def check_sampler(profile: ProfileModel, name: str, setting: Setting) -> None:
    """Raise ConfigError unless sampler, shift, share and clip of a setting fit its model.

    Video models, and only these, are sampled by rectified flow.
    """
    family = family_at(profile, name)
    check_pipeline(profile.models, name, setting)
    if family is not PIPELINES and (family is CLIPS) != (setting.sampler == RECTIFIED_FLOW):
        allowed = RECTIFIED_FLOW if family is CLIPS else "ddim, ddpm"
        raise ConfigError(
            f"settings.{name}.sampler: found {setting.sampler!r}; {setting.model} is {family.model_is} model, allowed"
            f" are {allowed}"
        )
    if setting.shift is not None and family is not CLIPS:
        raise ConfigError(
            f"settings.{name}.shift: found {setting.shift}; only settings with rectified flow have a shift; remove it"
        )
    for form in setting.share:
        require(form, profile.models[setting.model].forms, f"settings.{name}.share")
    if setting.share and family is CLIPS:
        raise ConfigError(
            f"settings.{name}.share: found one, but only settings of images have it; remove it, and take fewer"
            " video.clips"
        )
    of_latents = profile.models[setting.model].text_encoder is not None
    if of_latents and setting.clip is None:
        raise ConfigError(
            f"settings.{name}: missing clip, the size of the clips that a video model of latents makes; add it"
        )
    if setting.clip is not None and not of_latents:
        raise ConfigError(f"settings.{name}.clip: found one; only video models of latents have it, remove it")


def check_family(profile: ProfileModel, table: Table, block: Block, where: str) -> None:
    """Raise ConfigError for a block of clips in a table of images, or the reverse, and for clips with a search."""
    family = family_at(profile, block.setting)
    kinds = "table3 and qc" if family is CLIPS else "all but table3"
    if (family is CLIPS) != (table.kind == "table3") and not (family is CLIPS and table.kind == "qc"):
        raise ConfigError(
            f"{where}.setting: {block.setting!r} makes {family.samples}, the table is of kind {table.kind}; tables of"
            f" {family.samples} are of kind {kinds}"
        )
    for label in block.methods:
        entry = profile.methods[label]
        if not family.is_searched and entry.search is not None and "group_size" not in entry.options:
            raise ConfigError(
                f"{where}.methods: {label} takes the allocation of the search {entry.search}, and the workflow runs no"
                " searches on clips; give it a group_size for them, or an allocation file"
            )
        for bits in block.bits:
            search = search_run_of(profile, setting=block.setting, form=block.form, label=label, bits=bits)
            if search is not None and not family_at(profile, search.setting).is_searched:
                raise ConfigError(
                    f"{where}.methods: {label} takes the allocation of a search at {search.setting}, which makes clips;"
                    " the workflow searches for images only"
                )


def check_files(profile: ProfileModel) -> None:
    """Raise ConfigError for an entry of `files` without a source. An entry that nothing uses is allowed."""
    for path, entry in profile.files.items():
        if is_pipeline_folder(profile, path) and "hub" in entry and "file" not in entry:
            continue
        if ("url" in entry) == ("hub" in entry) or ("hub" in entry) != ("file" in entry):
            raise ConfigError(f"files.{path}: found {', '.join(entry.keys())}; expected either url, or hub and file")


def is_pipeline_folder(profile: ProfileModel, path: str) -> bool:
    """Return whether a path is the folder of a pipeline of the profile."""
    return any(path in model.forms.values() for model in profile.models.values() if model.pipeline is not None)


def check_kind(profile: ProfileModel, table: Table, table_path: str) -> None:
    """Raise ConfigError for a block that its kind of table does not allow: its bits, methods and further keys."""
    controlled = set()
    for index, block in enumerate(table.blocks):
        where = f"{table_path}.blocks[{index}]"
        check_length(block.bits, (1, MOST_BITS.get(table.kind)), f"{where}.bits")
        check_length(block.methods, METHODS.get(table.kind, (1, None)), f"{where}.methods")
        if block.published is not None and table.kind not in PRINTED_KINDS:
            raise ConfigError(f"{where}.published: tables of kind {table.kind} have no printed numbers; remove it")
        check_base(profile, table, block, where)
        if table.kind == "qc":
            check_controls(profile, block, where)
            if (pair := (block.setting, block.form)) in controlled:
                raise ConfigError(
                    f"{where}: {' '.join(pair)} has controls already; only one pair is allowed; remove a block"
                )
            controlled.add(pair)


def check_length(values: Iterable[Any], limits: tuple[int, int | None], where: str) -> None:
    """Raise ConfigError unless the length of a list is between two limits; None: no upper limit."""
    values, (least, most) = list(values), limits
    if len(values) < least:
        raise ConfigError(f"{where}: found {reprlib.repr(values)}, expected a list of length at least {least}")
    if most is not None and len(values) > most:
        raise ConfigError(f"{where}: found {reprlib.repr(values)}, expected a list of length at most {most}")


def check_base(profile: ProfileModel, table: Table, block: Block, where: str) -> None:
    """Raise ConfigError unless a block of kind `variants` has a quantized `base` among its methods.

    Blocks of other kinds must not have a base.
    """
    if table.kind != "variants":
        if block.base is not None:
            raise ConfigError(f"{where}.base: found {block.base!r}; only blocks of kind variants have one, remove it")
        return
    if block.base is None:
        raise ConfigError(f"{where}: missing base, the method that the others are compared with; add it")
    require(block.base, [label for label in block.methods if not is_full(profile, label)], f"{where}.base")


def check_controls(profile: ProfileModel, block: Block, where: str) -> None:
    """Raise ConfigError unless exactly one of a block's two controls is full precision."""
    if sum(is_full(profile, label) for label in block.methods) != 1:
        raise ConfigError(
            f"{where}.methods: found {reprlib.repr(list(block.methods))}, expected two controls:"
            f" {full_precision_label(profile)} and a method that destroys the images at these bits"
        )


def check_method(entry: MethodEntry, where: str) -> None:
    """Raise ConfigError for an unknown method, an unknown option, or a value that the option cannot have.

    Only the model can tell whether a group size divides its widths. The quantize step checks that.
    """
    require(entry.method, method_index().names, f"{where}.method")
    if excess := [key for key in ("setting", "form") if key in entry]:
        raise ConfigError(f"{where}: found {', '.join(excess)}; only entries of images have them, remove them")
    allocated: dict[str, Any] = {"allocation": {}} if "allocation" in entry or "search" in entry else {}
    check_method_options(entry.method, entry.options | allocated, where=f"{where}.options")
