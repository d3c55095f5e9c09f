"""Read profiles from files: YAML or JSON without repeated keys, and overlays that change the default profile."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.repository import ROOT
from qdit.workflow.profile_models import ProfileModel

DEFAULT = "mini"
"""Profile that overlays are laid over."""
MOST_VALUES, MOST_LEVELS = 1_000_000, 50
"""Values of a file, with each alias written out, and levels of lists and mappings."""


class UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Loads YAML safely, and refuses a mapping that has a key twice. YAML itself silently takes the last value."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse repeated keys in a mapping; keys that `<<` merges from another mapping may repeat a key."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise ConfigError(
                        f"key {key.value!r} stands in line {lines[key.value]} and again in line {line}; keep one"
                    )
                lines[key.value] = line
        super().flatten_mapping(node)


def profile_file(name: str | Path) -> Path:
    """Return the file of a profile that is given by name (`mini` is config/mini.yaml) or by path."""
    named = ROOT / "config" / f"{name}.yaml"
    return named if named.is_file() else Path(name)


def read_layers(*names: str | Path, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Merge profiles and overlays in order, and `values` over all of them. The result is not checked.

    The default profile comes before them, unless one of them is a whole profile. Mappings are merged key by key; all
    other values are replaced. ConfigError for a whole profile behind another file, whose values it would replace.
    """
    layers = [read_mapping(profile_file(name)) for name in names]
    for name, before, content in zip(names[1:], names, layers[1:], strict=False):
        if is_whole(content):
            raise ConfigError(
                f"profile {name}: is a whole profile and stands after {before}, whose values it replaces; name the"
                " whole profile first, and its overlays after it"
            )
    if not any(map(is_whole, layers)):
        layers.insert(0, read_mapping(profile_file(DEFAULT)))
    profile: dict[str, Any] = {}
    for layer in [*layers, values or {}]:
        profile = merged(profile, layer)
    return profile


def is_whole(content: Mapping[str, Any]) -> bool:
    """Return whether a file is a whole profile: it has the key `standalone`, or all required parts.

    The file results/<profile>/profile.json of a run is a whole profile.
    """
    required = {name for name, field in ProfileModel.model_fields.items() if field.is_required()}
    return content.get("standalone") is True or required <= content.keys()


def merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `base` with the values of `overlay`, merged as Snakemake merges.

    The copy shares no object with either. A YAML alias (`options: *learned`) makes several mappings one object. In the
    copy they are different objects, so that a change of one does not change the others.
    """
    result = {key: unshared(value) for key, value in base.items()}
    for key, value in overlay.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, dict):
            result[key] = merged(below, value)
        elif value != {} or key not in result:  # an empty mapping changes nothing
            result[key] = unshared(value)
    return result


def unshared(value: Any) -> Any:
    """Copy plain data so that no two places hold the same object."""
    if isinstance(value, Mapping):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file with a mapping; ConfigError if it is missing, invalid, or has a key twice."""
    try:
        content = parsed(path.read_text(encoding="utf-8"), is_json=path.suffix == ".json")
    except (FileNotFoundError, IsADirectoryError):
        known = sorted(file.stem for file in (ROOT / "config").glob("*.yaml"))
        hint = did_you_mean(path.stem, known)
        raise ConfigError(f"profile {path}: no such file; known by name are {', '.join(known)}{hint}") from None
    except OSError as problem:
        raise ConfigError(f"{path}: cannot be read ({problem.strerror}); make it readable") from None
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigError(f"{path}: not valid {kind} ({' '.join(str(problem).split())}); correct the file") from None
    if is_endless(content):
        raise ConfigError(
            f"{path}: with its aliases written out it holds more than {MOST_VALUES:,} values, or {MOST_LEVELS} levels;"
            " no profile is that large, correct the file"
        )
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {reprlib.repr(content)}, expected a mapping (see config/mini.yaml)")
    return content


def parsed(text: str, *, is_json: bool) -> Any:
    """Parse the text of a YAML or JSON file."""
    if is_json:
        return json.loads(text, object_pairs_hook=unique_keys)
    return yaml.load(text, Loader=UniqueKeyLoader)  # a safe loader


def command_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of `snakemake --config`.

    Snakemake leaves numbers and truth values inside a mapping as text. Here they are converted.
    """
    return {key: value if isinstance(value, str) else retyped(value) for key, value in values.items()}


def retyped(value: Any) -> Any:
    """Copy plain data; a text that YAML would read as a number, truth value or null is converted."""
    if isinstance(value, Mapping):
        return {key: retyped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [retyped(inner) for inner in value]
    if not isinstance(value, str):
        return value
    scalar = yaml.SafeLoader("").resolve(yaml.ScalarNode, value, (True, False))
    is_word = scalar.removeprefix("tag:yaml.org,2002:") in ("int", "float", "bool", "null")
    return yaml.safe_load(value) if is_word else value


def is_endless(content: Any) -> bool:
    """Return whether nested YAML aliases make a file larger than any real profile."""
    waiting, values = [(content, 0)], 0
    while waiting:
        outer, level = waiting.pop()
        below = list(outer.values()) if isinstance(outer, dict) else outer if isinstance(outer, list) else []
        values += len(below)
        if values > MOST_VALUES or level > MOST_LEVELS:
            return True
        waiting += [(inner, level + 1) for inner in below]
    return False


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a mapping of a JSON object's pairs; ConfigError for a repeated key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(f"key {twice!r} stands in one object twice; keep one of them")
    return content
