"""Lookup of the tools: files of `qdit/sampling/tools/known/`, and classes of other packages (entry point `qdit.tools`).

Only classes are read here. The package of a tool is imported in the tool's own process.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.run import BITS, split_bits
from qdit.sampling.tools import known
from qdit.sampling.tools.contract import Tool

GROUP = "qdit.tools"
"""Entry-point group through which other packages offer tools; the value is `package.module:Class`."""
TEXTS = ("name", "printed", "package", "licence", "address")


@dataclass(frozen=True)
class KnownTool:
    """A tool, the name of its module, and the path of its file."""

    tool: Tool
    module: str
    path: Path


@cache
def tools() -> Mapping[str, KnownTool]:
    """All tools by name. ConfigError for a file that cannot be imported or a class without a required attribute."""
    known: dict[str, KnownTool] = {}
    for module, class_name in modules():
        for entry in tools_of(module, class_name):
            if entry.tool.name in known:
                raise ConfigError(f"{entry.path}: a tool named {entry.tool.name!r} exists already; choose another name")
            known[entry.tool.name] = entry
    return known


def modules() -> Iterator[tuple[str, str | None]]:
    """All modules that define tools; for an entry point also the name of its class."""
    folder = Path(known.__path__[0])
    for file in sorted(folder.glob("*.py")):
        if file.stem != "__init__":
            yield f"{known.__name__}.{file.stem}", None
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.value):
        module, _, class_name = point.value.partition(":")
        yield module.strip(), class_name.strip() or None


def tools_of(name: str, class_name: str | None) -> list[KnownTool]:
    """Import a module and make its tools."""
    try:
        module = importlib.import_module(name)
    except Exception as problem:
        raise ConfigError(
            f"tool file {name}: {type(problem).__name__}: {' '.join(str(problem).split())}; correct the file"
        ) from None
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Tool)]
    classes = [value for value in classes if value.__module__ == name and not inspect.isabstract(value)]
    classes = [value for value in classes if class_name in (None, value.__name__)]
    if not classes:
        raise ConfigError(f"tool file {name}: holds no class of a Tool; write one (docs/compare.md)")
    return [KnownTool(validated_tool(value(), name), name, Path(inspect.getfile(value))) for value in classes]


def validated_tool(tool: Tool, where: str) -> Tool:
    """Return the tool unchanged.

    ConfigError if an attribute is missing, if it has no bits, or if a bit width is wrong.
    """
    for fact in TEXTS:
        if not isinstance(getattr(tool, fact, None), str):
            raise ConfigError(f'tool file {where}: class {type(tool).__name__} has no {fact}; add {fact} = "…"')
    if not getattr(tool, "bits", None):
        raise ConfigError(f'tool file {where}: class {type(tool).__name__} does no bits; add bits = {{"w4a16": "…"}}')
    for bits in (*tool.bits, *tool.cannot, *tool.calibrated):
        if not set(split_bits(bits)) <= set(BITS):
            raise ConfigError(f"tool file {where}: bits {bits!r} do not exist; write them as w4a16")
    return tool


def find_tool(name: str) -> KnownTool:
    """The tool of this name; ConfigError for an unknown name, with the names that exist."""
    if name not in tools():
        raise ConfigError(f"tool {name!r}: allowed are {', '.join(sorted(tools()))}{did_you_mean(name, tools())}")
    return tools()[name]
