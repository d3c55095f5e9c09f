"""Read facts about every method from its source, without importing it (an import of torch takes seconds).

The class attributes of `qdit.methods.method.Method` are literals. A class inherits missing attributes from its base
classes, also from other files. If a file cannot be read, only its own methods are missing.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from qdit.core.digest import code_digest
from qdit.core.errors import ConfigError
from qdit.core.files import sha256_file
from qdit.core.method_modules import MethodModule, claimed_names, syntax_of
from qdit.methods.sources import STEP, BrokenFile, method_modules, needed_kinds, unknown_method
from qdit.workflow.method_syntax import ClassSource, Option, SourceFile

CONTRACT = "qdit.methods.method", "Method"
OPTIONAL_TEXTS = ("printed", "base", "color", "marker")
TYPES: Mapping[str, tuple[type, ...]] = {
    **{name: (str, type(None)) for name in OPTIONAL_TEXTS},
    **dict.fromkeys(("name", "citation", "line"), (str,)),
    **dict.fromkeys(
        (
            "learns_rounding",
            "common_weights_are_core",
            "stores_more_than_codes",
            "emphasized",
            "learns_modulation",
            "learns_scales",
        ),
        (bool,),
    ),
    **dict.fromkeys(("memory_mb", "minutes", "sensitive_rows"), (int,)),
    "large_batch": (int, type(None)),
    **dict.fromkeys(("calibration", "calibration_unused", "learned_rows"), (tuple, list)),
}
"""Class attribute → types that it may have."""


@dataclass(frozen=True)
class MethodFacts:
    """What the class of a method says about itself, and its file. `qdit.methods.method.Method` explains each fact.

    `options` is empty for a method without options. It is None if the class of the options cannot be read.
    """

    name: str
    printed: str
    citation: str
    calibration: tuple[str, ...]
    calibration_unused: tuple[tuple[str, str, Any], ...]
    base: str | None
    learns_rounding: bool
    common_weights_are_core: bool
    stores_more_than_codes: bool
    color: str | None
    marker: str | None
    line: str
    emphasized: bool
    learned_rows: tuple[int, int]
    large_batch: int | None
    sensitive_rows: int
    learns_modulation: bool
    learns_scales: bool
    memory_mb: int
    minutes: int
    module: str
    path: Path
    about: str
    options: Mapping[str, Option] | None
    options_about: str

    def calibration_for(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the kinds of calibration data that the method needs under these options."""
        return needed_kinds(self.calibration, self.calibration_unused, self.all_options(options))

    def all_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return these options, completed by the known defaults of all other options."""
        return {name: option.default for name, option in (self.options or {}).items() if option.known} | dict(options)

    @property
    def rule_file(self) -> str:
        """Name of the method's file in rules/baselines/, without suffix: `g4w_p4a` for g4w+p4a."""
        return re.sub(r"\W+", "_", self.name)

    @property
    def code(self) -> str:
        """Digest of the code that quantizes with this method."""
        return code_digest(STEP, self.module)


@dataclass(frozen=True)
class MethodIndex:
    """All methods by name, and the files that cannot be used."""

    methods: Mapping[str, MethodFacts]
    broken: tuple[BrokenFile, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of methods that a profile may use.

        Names in broken files are included; then only the rows of these methods fail.
        """
        return tuple(dict.fromkeys([*self.methods, *(name for file in self.broken for name in file.names)]))


@cache
def method_index() -> MethodIndex:
    """Return all methods by name, with the facts from their sources."""
    methods: dict[str, MethodFacts] = {}
    broken: list[BrokenFile] = []
    for origin in method_modules():
        try:
            for facts in facts_in(origin):
                if facts.name in methods:
                    raise ConfigError(
                        f"{origin.where}: a method named {facts.name!r} exists already; choose another name"
                    )
                methods[facts.name] = facts
        except ConfigError as problem:
            names = tuple(name for name in claimed_names(origin.path) if name not in methods)
            broken.append(BrokenFile(str(problem), names))
    return MethodIndex(methods, tuple(broken))


def method_sources() -> Mapping[str, MethodFacts]:
    """Return name → facts of every method whose source can be read."""
    return method_index().methods


def method_facts(name: str) -> MethodFacts:
    """Return the facts about a method.

    ConfigError for an unknown name, with a suggestion, or for a broken file, with the reason.
    """
    index = method_index()
    if name not in index.methods:
        raise unknown_method(name, index.methods, index.broken)
    return index.methods[name]


def planned_code(name: str, *, digest: Callable[..., str] = code_digest) -> str:
    """Return the digest of a method's code; if it changes, Snakemake runs the jobs of the method again.

    For a broken file it is the digest of the file, so a repair starts its jobs. `digest` computes the digest of code. A
    plan passes `Sources().digest`, which reads every source once.
    """
    index = method_index()
    if name in index.methods:
        return digest(STEP, index.methods[name].module)
    for origin in method_modules():
        if origin.path is not None and name in claimed_names(origin.path):
            return sha256_file(origin.path)
    raise unknown_method(name, index.methods, index.broken)


def planned_kinds(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of calibration data that the plan makes for a method; () for a broken method."""
    known = method_sources()
    return known[name].calibration_for(options) if name in known else ()


def facts_in(origin: MethodModule) -> list[MethodFacts]:
    """Return the facts about all methods in a module. ConfigError in one line if the module cannot be read."""
    syntax_of(origin)
    assert origin.path is not None
    source = SourceFile(origin.module, origin.path)
    if origin.class_name is None:
        chains = [ClassSource(source, node).ancestors() for node in source.classes.values()]
        chains = [chain for chain in chains if is_method(chain)]
    else:
        named = source.resolve(ast.Name(origin.class_name))
        chains = [] if named is None else [named.ancestors()]
        if not chains or not is_method(chains[0]):
            raise ConfigError(
                f"{origin.where}: {origin.class_name} is not a subclass of Method; correct the entry point"
            )
    return [facts_of(chain) for chain in chains]


def is_method(chain: list[ClassSource]) -> bool:
    """Return whether a class is a usable method: it inherits from `Method`, and defines `quantize` or `name`.

    `chain` is the class and its base classes.
    """
    ends = [number for number, ancestor in enumerate(chain) if ancestor.identity == CONTRACT]
    return bool(ends) and any(
        "quantize" in ancestor.methods or "name" in ancestor.values for ancestor in chain[: ends[0]]
    )


def facts_of(chain: list[ClassSource]) -> MethodFacts:
    """Return the facts of a class, from its own and inherited attributes; `chain` is the class and its base classes."""
    source = chain[0]
    values = {name: attribute(chain, name) for name in TYPES}
    if not values["name"]:
        raise ConfigError(f"{source.where}: class {source.node.name} has no name; add it as a literal")
    options, about = options_of(chain)
    return MethodFacts(
        **values
        | {
            "printed": values["printed"] or values["name"],
            "citation": values["citation"] or "",
            "calibration": tuple(values["calibration"]),
            "learned_rows": tuple(values["learned_rows"]),
            "calibration_unused": tuple(tuple(triple) for triple in values["calibration_unused"]),
        },
        module=source.source.module,
        path=source.source.path,
        about=source.docstring,
        options=options,
        options_about=about,
    )


def attribute(chain: list[ClassSource], name: str) -> Any:
    """Return the value of a class attribute from the first class of `chain` that has it. None if no class has it."""
    for ancestor in chain:
        if name in ancestor.values:
            value = ancestor.literal(name)
            if not isinstance(value, TYPES[name]) or (isinstance(value, bool) and bool not in TYPES[name]):
                raise ConfigError(
                    f"{ancestor.line_of(name)}: {name} is {value!r}, expected {type_words(name)}; correct it"
                )
            return value
    return None


def type_words(name: str) -> str:
    """Write which type a class attribute must have."""
    words = {str: "a text", type(None): "None", bool: "True or False", int: "a whole number", tuple: "a tuple"}
    return " or ".join(words[kind] for kind in TYPES[name] if kind in words)


def options_of(chain: list[ClassSource]) -> tuple[Mapping[str, Option] | None, str]:
    """Return the options of a method with their facts, and their docstring. None if their class cannot be read."""
    for ancestor in chain:
        if "Options" in ancestor.values:
            written = ancestor.source.resolve(ancestor.values["Options"])
            if written is None:
                return None, ""
            fields: dict[str, Option] = {}
            for dataclass_source in reversed(written.ancestors()):
                fields |= dataclass_source.fields
            return fields, written.docstring
    return None, ""
