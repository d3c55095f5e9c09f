"""Profiles: the YAML file that says which models, settings, methods and tables there are; its checks and its runs."""

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from qdit.errors import ConfigError, did_you_mean
from qdit.method_sources import method_sources
from qdit.searches import SearchPlace, check_method_search, check_searches, place_of

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "config" / "schema.yaml"
FULL_PRECISION = "fp"
FULL_PRECISION_BITS = "w16a16"
SIMULATE, INTEGER = "simulate", "integer"
"""Modes of a run."""

Profile = Mapping[str, Any]
DIGITS_REFERENCES = ("digits", "digits-16")
"""References that are made of scikit-learn's digits; others are files under `references`."""

PRINTED_KINDS = ("table1", "table2", "table4", "table5", "table6", "ptq4dit_table1", "tq_dit")
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
    "minItems": "a list of length at least {}",
    "maxItems": "a list of length at most {}",
    "minProperties": "a mapping with at least {} entries",
    "minLength": "a text of at least {} characters",
}


@dataclass(frozen=True, order=True)
class Run:
    """The unit of a table row: setting × form × method label × bits × scope, simulated or in integers.

    An integer run has no checkpoint of its own: it samples from that of the simulated run.
    """

    setting: str
    form: str
    label: str
    bits: str
    scope: str
    mode: str = SIMULATE

    @property
    def path(self) -> str:
        """Folder of the run below `runs/`."""
        mode = "" if self.mode == SIMULATE else f"-{self.mode}"
        return f"{self.setting}/{self.form}/{self.label}/{self.bits}-{self.scope}{mode}"


def profile_file(name: str | Path) -> Path:
    """File of a profile given by name (`mini` is config/mini.yaml) or by path."""
    named = ROOT / "config" / f"{name}.yaml"
    return named if named.is_file() else Path(name)


def load_profile(*names: str | Path) -> dict[str, Any]:
    """Read a profile and, over it, its overlays, as Snakemake's --configfile does; then check the whole.

    Mappings are merged key by key, everything else is replaced. ConfigError says in one line what is wrong.
    """
    profile: dict[str, Any] = {}
    for name in names:
        merge(profile, read_yaml(profile_file(name)))
    validate(profile)
    return profile


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        known = sorted(file.stem for file in (ROOT / "config").glob("*.yaml") if file != SCHEMA)
        hint = did_you_mean(path.stem, known)
        raise ConfigError(f"profile {path}: no such file; known by name are {', '.join(known)}{hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(problem).split())}); correct the file") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {reprlib.repr(content)}, expected a mapping (see config/mini.yaml)")
    return content


def merge(base: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    """Lay `overlay` over `base`, in place."""
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        elif value != {} or key not in base:  # Snakemake lets an empty mapping change nothing
            base[key] = value


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
    """Raise unless every name that one part uses is defined by another."""
    for name, model in profile["models"].items():
        require(model["extractor"], profile["extractors"], f"models.{name}.extractor")
        known = [*DIGITS_REFERENCES, *profile.get("references", {})]
        require(model["reference"], known, f"models.{name}.reference")
    for name, setting in profile["settings"].items():
        require(setting["model"], profile["models"], f"settings.{name}.model")
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


def default_tables(profile: Profile) -> list[str]:
    """Tables that are made without being asked for by name."""
    return [table for table, definition in profile["tables"].items() if not definition.get("opt_in", False)]


def runs_of(profile: Profile, table: str) -> list[Run]:
    """Runs that a table needs, without repetition, in the order of its rows.

    The page of kind `qc` reads the simulated runs of all other default tables, then its own controls; a table of kind
    `integer` shows every quantized run in both modes.
    """
    runs: dict[Run, None] = {}
    if profile["tables"][table]["kind"] == "qc":
        others = [name for name in default_tables(profile) if profile["tables"][name]["kind"] != "qc"]
        runs |= {run: None for name in others for run in runs_of(profile, name) if run.mode == SIMULATE}
    for block in profile["tables"][table]["blocks"]:
        full = [label for label in block["methods"] if is_full(profile, label)]
        others = [label for label in block["methods"] if label not in full]
        rows = [(label, FULL_PRECISION_BITS) for label in full]
        rows += [(label, bits) for bits in block["bits"] for label in others]
        for label, bits in rows:
            run = Run(block["setting"], block["form"], label, bits, block["scope"])
            runs[run] = None
            if profile["tables"][table]["kind"] == INTEGER and label not in full:
                runs[replace(run, mode=INTEGER)] = None
    return list(runs)


def search_of(profile: Profile, run: Run) -> SearchPlace | None:
    """The search whose allocation a run takes, or None."""
    return place_of(profile, setting=run.setting, form=run.form, label=run.label, bits=run.bits)


def searches_of(profile: Profile, table: str) -> list[SearchPlace]:
    """Searches whose allocations the runs of a table take, without repetition."""
    found = [search_of(profile, run) for run in runs_of(profile, table)]
    return list(dict.fromkeys(place for place in found if place is not None))


def all_runs(profile: Profile) -> list[Run]:
    """Runs of the default tables, shared ones once."""
    return list(dict.fromkeys(run for table in default_tables(profile) for run in runs_of(profile, table)))


def listing(profile: Profile) -> str:
    """Methods, settings, tables and runs as text."""
    lines = ["methods (name, where it is written, rows of this profile):"]
    for method, source in method_sources().items():
        labels = [label for label, entry in profile["methods"].items() if entry["method"] == method]
        lines.append(f"  {method:<10} {source.module:<20} {', '.join(labels) or '-'}")
    lines.append("settings:")
    for name, setting in profile["settings"].items():
        lines.append(f"  {name:<20} " + ", ".join(f"{key} {value}" for key, value in setting.items()))
    for table in profile["tables"]:
        opt_in = "" if table in default_tables(profile) else " (only when asked for by name)"
        lines += [f"{table}{opt_in}:", *(f"  {run.path}" for run in runs_of(profile, table))]
    return "\n".join(lines)


def protocol_flags(profile: Profile, setting: str) -> list[str]:
    """What decides every image of a setting, as flags of `qdit`; VAE and precision only where the profile has them."""
    entry = profile["settings"][setting]
    values = {"--sampler": entry["sampler"], "--steps": entry["steps"], "--cfg-scale": entry["cfg_scale"]}
    values |= {"--seed": profile["seed"]}
    if "vae" in (model := profile["models"][entry["model"]]):
        values["--vae"] = model["vae"]
    if "dtype" in (compute := profile.get("compute", {})):
        values["--dtype"] = compute["dtype"]
    return [str(part) for pair in values.items() for part in pair]


def full_precision_label(profile: Profile) -> str:
    """Label of the method `fp`, with which every run is compared image by image."""
    for label, entry in profile["methods"].items():
        if entry["method"] == FULL_PRECISION:
            return str(label)
    raise ConfigError(
        "methods: no entry with method fp, found none; add `fp: {method: fp}`, all runs are compared to it"
    )


def full_precision_run(profile: Profile, run: Run) -> Run:
    """The full-precision run with the same noise as `run`."""
    return Run(run.setting, run.form, full_precision_label(profile), FULL_PRECISION_BITS, run.scope)


def split_bits(bits: str) -> tuple[int, int]:
    """'w4a8' → (4, 8)."""
    match = re.fullmatch(r"w(\d+)a(\d+)", bits)
    if match is None:
        raise ConfigError(f"bits {bits!r}: expected weight and activation bits (2 to 8, or 16), e.g. w4a8")
    return int(match[1]), int(match[2])


def shards(profile: Profile) -> range:
    """Shard numbers of a run."""
    sampling = profile["sampling"]
    return range(-(-sampling["images"] // (sampling["chunk"] * sampling["chunks_per_shard"])))
