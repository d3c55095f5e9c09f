"""What a profile may say: the schema, and the references between its parts; every problem is one line."""

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.repository import ROOT
from qdit.workflow.method_index import method_sources
from qdit.workflow.paths import check_paths
from qdit.workflow.searches import check_method_search, check_searches, place_of

SCHEMA = ROOT / "config" / "schema.yaml"
FULL_PRECISION = "fp"
RECTIFIED_FLOW = "rectified-flow"
"""Sampler of video models."""
VIDEO_KEYS: Mapping[str, tuple[str, ...]] = {"instruments": (), "text_encoder": ("vae",)}
"""What makes a model a video model → what it needs besides: one of pixels that instruments score, or one of latents."""

Profile = Mapping[str, Any]
DIGITS_REFERENCES = ("digits", "digits-16")
"""References that are made of scikit-learn's digits; others are files under `references`."""

PRINTED_KINDS = ("table1", "table2", "table3", "table4", "table5", "table6", "ptq4dit_table1", "tq_dit")
"""Kinds of tables with printed numbers in results/published/<kind>.csv."""

TYPE_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
LIMIT_WORDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "minItems": "a list of length at least {}",
    "maxItems": "a list of length at most {}",
    "minProperties": "a mapping with at least {} entries",
    "minLength": "a text of at least {} characters",
}


@cache
def validator() -> Any:
    """Validator of config/schema.yaml; unlike JSON's, its whole numbers are not 1.0 and its numbers are finite."""
    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            ),
        }
    )
    strict = extend(Draft202012Validator, type_checker=checker)
    return strict(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def validate(profile: Any) -> None:
    """Raise ConfigError for anything that the schema or the references between the parts do not allow."""
    problems = sorted(validator().iter_errors(profile), key=lambda problem: [str(part) for part in problem.path])
    if problems:
        raise ConfigError(describe(problems[0]))
    check_references(profile)


def place(path: Sequence[Any]) -> str:
    """Where in the profile: `tables.table2.blocks[0].bits`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "profile"


def describe(problem: ValidationError) -> str:
    """One line for a schema violation: where, what was found, what is allowed."""
    instance: Any = problem.instance
    rule: Any = problem.validator_value
    schema: Any = problem.schema
    where, found = place(list(problem.path)), reprlib.repr(instance)
    if problem.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        unknown = next(key for key in instance if key not in known)
        hint = did_you_mean(str(unknown), known)
        return f"{where}: unknown key {unknown!r}; allowed are {', '.join(known)}{hint}"
    if problem.validator == "required":
        missing = [key for key in rule if key not in instance]
        return f"{where}: missing {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}"
    if problem.validator == "enum":
        hint = did_you_mean(str(instance), map(str, rule))
        return f"{where}: found {found}; allowed are {', '.join(map(str, rule))}{hint}"
    if problem.validator == "pattern":
        return f"{where}: found {found}, expected {schema.get('description', 'another form')}"
    if problem.validator == "type":
        return f"{where}: found {found}, expected {TYPE_WORDS[rule]}"
    if problem.validator in LIMIT_WORDS:
        return f"{where}: found {found}, expected {LIMIT_WORDS[str(problem.validator)].format(rule)}"
    return f"{where}: {problem.message}"


def require(word: str, allowed: Sequence[str] | Mapping[str, Any], where: str) -> None:
    """Raise unless `word` is one of the allowed names."""
    if word not in allowed:
        hint = did_you_mean(word, allowed)
        raise ConfigError(f"{where}: {word!r} is not defined; allowed are {', '.join(allowed)}{hint}")


def check_references(profile: Profile) -> None:
    """Raise unless every name that one part uses is defined by another, and every path is of the checkout's data."""
    check_paths(profile)
    for name, model in profile["models"].items():
        check_model(profile, model, f"models.{name}")
    for name, setting in profile["settings"].items():
        require(setting["model"], profile["models"], f"settings.{name}.model")
        check_sampler(profile, name, setting)
    if "video" in profile:
        clips_of(profile)
    check_files(profile)
    check_searches(profile)
    for label, entry in profile["methods"].items():
        check_method(entry, f"methods.{label}")
        check_method_search(profile, label)
        if "base" in entry:
            require(entry["base"], profile["methods"], f"methods.{label}.base")
    full_precision_label(profile)
    for table, definition in profile["tables"].items():
        check_kind(profile, definition, f"tables.{table}")
        for label in definition.get("fitted", []):
            require(label, profile["methods"], f"tables.{table}.fitted")
        for index, block in enumerate(definition["blocks"]):
            where = f"tables.{table}.blocks[{index}]"
            require(block["setting"], profile["settings"], f"{where}.setting")
            model = profile["settings"][block["setting"]]["model"]
            require(block["form"], profile["models"][model]["forms"], f"{where}.form")
            for label in [*block["methods"], *block.get("fitted", [])]:
                require(label, profile["methods"], f"{where}.methods")
            check_family(profile, definition, block, where)


def check_model(profile: Profile, model: Mapping[str, Any], where: str) -> None:
    """Raise unless a model says how its images or its clips are made and scored: with an extractor and a reference,
    with instruments, or (clips of latents, which VBench scores) with a text encoder and a VAE.
    """
    if is_video_model(model):
        mark = next(name for name in VIDEO_KEYS if name in model)
        own = [mark, *VIDEO_KEYS[mark]]
        if excess := [name for name in model if name not in ("forms", *own)]:
            raise ConfigError(
                f"{where}: found {mark} and {', '.join(excess)}; such a video model has {' and '.join(own)} only"
            )
        if missing := [name for name in own if name not in model]:
            raise ConfigError(f"{where}: has a {mark}, so it makes latents of clips, and no {missing[0]}; add it")
        if "video" not in profile:
            raise ConfigError(f"{where}: has {mark}, so it is a video model, and there is no `video`; add it")
        return
    if missing := [name for name in ("extractor", "reference") if name not in model]:
        raise ConfigError(
            f"{where}: missing {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}, or instruments if it"
            " is a video model"
        )
    require(model["extractor"], profile["extractors"], f"{where}.extractor")
    require(model["reference"], [*DIGITS_REFERENCES, *profile.get("references", {})], f"{where}.reference")


def check_sampler(profile: Profile, name: str, setting: Mapping[str, Any]) -> None:
    """Raise unless a video model is sampled by rectified flow, and only that."""
    video, flows = is_video(profile, name), setting["sampler"] == RECTIFIED_FLOW
    if video != flows:
        kind, allowed = ("a video", RECTIFIED_FLOW) if video else ("an image", "ddim, ddpm")
        raise ConfigError(
            f"settings.{name}.sampler: found {setting['sampler']!r}; {setting['model']} is {kind} model, allowed are"
            f" {allowed}"
        )
    if "shift" in setting and not video:
        raise ConfigError(f"settings.{name}.shift: only rectified flow has one; remove it")
    of_latents = "text_encoder" in profile["models"][setting["model"]]
    if of_latents and "clip" not in setting:
        raise ConfigError(f"settings.{name}: missing clip, what a video model of latents makes; add it")
    if "clip" in setting and not of_latents:
        raise ConfigError(f"settings.{name}.clip: found one; only video models of latents have it, remove it")


def check_family(profile: Profile, definition: Mapping[str, Any], block: Mapping[str, Any], where: str) -> None:
    """Raise for a block of clips in a table of images or the other way round, and for a search on clips."""
    video, kind = is_video(profile, block["setting"]), definition["kind"]
    if video != (kind == "table3") and not (video and kind == "qc"):
        what, others = ("clips", "table3 and qc") if video else ("images", "all but table3")
        raise ConfigError(
            f"{where}.setting: {block['setting']!r} makes {what}, the table is of kind {kind}; tables of {what} are of"
            f" kind {others}"
        )
    for label in block["methods"]:
        for bits in block["bits"]:
            found = place_of(profile, setting=block["setting"], form=block["form"], label=label, bits=bits)
            if found is not None and is_video(profile, found.setting):
                raise ConfigError(
                    f"{where}.methods: {label} takes the allocation of a search at {found.setting}, and the"
                    " workflow runs no searches on clips; give group_size, or an allocation file"
                )


def clips_of(profile: Profile) -> int:
    """Clips of a video run: so many of each distinct prompt of the suite, a file of the repository or a fetched one."""
    video = profile["video"]
    expected, path = video.get("prompts"), Path(video["suite"])
    there = next((file for file in (path, ROOT / path) if file.is_file()), None)
    if there is None and expected is not None:
        return int(expected) * int(video["clips"])
    try:
        prompts = json.loads((there or path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(
            f"video.suite: {path} cannot be read ({' '.join(str(problem).split())}); qdit video suite writes one"
        ) from None
    if not isinstance(prompts, list) or not prompts:
        raise ConfigError(f"video.suite: {path} holds no list of prompts; qdit video suite writes one")
    found = len({json.dumps(row.get("prompt_en") if isinstance(row, dict) else row) for row in prompts})
    if expected not in (None, found):
        raise ConfigError(f"video.prompts: found {expected}, {path} holds {found} distinct ones; correct either")
    return found * int(video["clips"])


def is_video(profile: Profile, setting: str) -> bool:
    """Whether a setting makes clips."""
    return is_video_model(profile["models"][profile["settings"][setting]["model"]])


def is_video_model(model: Mapping[str, Any]) -> bool:
    """Whether a model makes clips: pixels that instruments score, or latents whose texts an encoder gives."""
    return any(name in model for name in VIDEO_KEYS)


def check_files(profile: Profile) -> None:
    """Raise for an entry of `files` that does not say where its file is from; one that nothing needs is no mistake."""
    for path, entry in profile.get("files", {}).items():
        if ("url" in entry) == ("hub" in entry) or ("hub" in entry) != ("file" in entry):
            raise ConfigError(f"files.{path}: found {', '.join(entry)}; expected either url, or hub and file")


def check_kind(profile: Profile, definition: Mapping[str, Any], table: str) -> None:
    """Raise for a block that lacks or has what only blocks of another kind of table have."""
    kind, controlled = definition["kind"], set()
    for index, block in enumerate(definition["blocks"]):
        where = f"{table}.blocks[{index}]"
        if "published" in block and kind not in PRINTED_KINDS:
            raise ConfigError(f"{where}.published: tables of kind {kind} have no printed numbers; remove it")
        if "base" in block and kind != "variants":
            raise ConfigError(
                f"{where}.base: found {block['base']!r}; only blocks of kind variants have one, remove it"
            )
        if kind == "variants":
            require(
                block["base"], [label for label in block["methods"] if not is_full(profile, label)], f"{where}.base"
            )
        if kind == "qc":
            positive = [label for label in block["methods"] if is_full(profile, label)]
            if len(positive) != 1:
                raise ConfigError(
                    f"{where}.methods: found {reprlib.repr(block['methods'])}, expected two controls:"
                    f" {full_precision_label(profile)} and a method that destroys the images at these bits"
                )
            if (place := (block["setting"], block["form"])) in controlled:
                raise ConfigError(f"{where}: {' '.join(place)} has controls already; one pair for each, remove a block")
            controlled.add(place)


def is_full(profile: Profile, label: str) -> bool:
    """Whether a label is full precision."""
    return bool(profile["methods"].get(label, {}).get("method") == FULL_PRECISION)


def check_method(entry: Mapping[str, Any], where: str) -> None:
    """Raise for an unknown method, an option it does not have, or a group size that no layer can have.

    Whether a group size divides is known only with the model: the quantize step says so.
    """
    require(entry["method"], method_sources(), f"{where}.method")
    known = method_sources()[entry["method"]].options
    options = entry.get("options", {})
    if known is not None:
        for option in [*options, *(["allocation"] if {"allocation", "search"} & entry.keys() else [])]:
            if option not in known:
                hint = did_you_mean(option, known)
                allowed = f"allowed are {', '.join(known)}{hint}" if known else "it has none"
                raise ConfigError(f"{where}.options: {entry['method']} has no option {option!r}; {allowed}")
    size = options.get("group_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(
            f"{where}.options.group_size: found {size!r}, expected a whole number of at least 1 that divides the"
            " layers' input width, or null for one scale per channel"
        )


def full_precision_label(profile: Profile) -> str:
    """Label of the method `fp`, with which every run is compared image by image."""
    for label, entry in profile["methods"].items():
        if entry["method"] == FULL_PRECISION:
            return str(label)
    raise ConfigError(
        "methods: no entry with method fp, found none; add `fp: {method: fp}`, all runs are compared to it"
    )
