"""Give the protocol of a profile a short version, such as `qdit-mini/5`, which is printed with every table.

**Rule.** The version increases when a value in the profile's tables can change. Two things decide this. Their digest
stands beside the version in `config/protocol-versions.json`:

- the parts of the profile about models, settings, samples, methods, searches and tables, and the digests of the shipped
  weights;
- the entries of CHANGELOG.md that begin with **performance-impacting**. Every change of the code that changes such a
  value needs an entry.

A test fails if the digest changes and the version does not. If an overlay changed the profile, the first characters of
the changed profile's digest follow the version: `qdit-mini/5+1a2b3c4d`.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from qdit.core.files import read_json, sha256_json
from qdit.core.repository import shipped_path

FILE = Path("config/protocol-versions.json")
MANIFEST = Path("weights/manifest.json")
MARK = "**performance-impacting**"
DECIDING = (
    *(
        "seed",
        "lossless_percent",
        "models",
        "extractors",
        "references",
        "perceptual",
        "judges",
        "sampling",
        "calibration",
        "video",
        "settings",
    ),
    *("methods", "allocation", "searches", "replicates", "tables"),
)
"""Parts of a profile that can move a number."""
WORDS_ONLY = frozenset({"about", "title", "chunks_per_shard", "opt_in"})
"""Keys inside of these parts that never do."""
SHORT = 8
"""Characters of the digest of a changed profile."""


def protocol_version(profile: Mapping[str, Any]) -> str:
    """Write the version of a profile's protocol; a digest follows if the profile differs from that version."""
    name = str(profile["profile"])
    known, digest = _shipped(FILE).get(name), profile_digest(profile)
    if known is None:
        return f"qdit-{name}/0+{digest[:SHORT]}"
    return f"qdit-{name}/{known['version']}" + ("" if known["profile"] == digest else f"+{digest[:SHORT]}")


def profile_digest(profile: Mapping[str, Any]) -> str:
    """Return the digest of everything in a profile that can change a number, and of the shipped weights."""
    parts = {key: profile[key] for key in DECIDING if profile.get(key) is not None}
    dtype = (profile.get("compute") or {}).get("dtype")
    return _digest(json.dumps(parts), json.dumps({"dtype": dtype, "weights": shipped_weights(profile)}))


@lru_cache(maxsize=8)
def _digest(parts: str, others: str) -> str:
    """Digest of parts of a profile, as JSON, without the words in them; a page asks for it once for each row."""
    deciding = {key: _without_words(value) for key, value in json.loads(parts).items()}
    return sha256_json(deciding | json.loads(others))


def shipped_weights(profile: Mapping[str, Any]) -> dict[str, str]:
    """Return file → sha256 for the files of weights in the repository that a profile uses."""
    files = _shipped(MANIFEST)["files"]
    models = profile["models"].values()
    paths = [path for model in models for path in (*model.get("forms", {}).values(), model.get("instruments"))]
    paths += list(profile.get("extractors", {}).values())
    names = sorted({Path(path).name for path in paths if path is not None and Path(path).parent == MANIFEST.parent})
    return {name: files[name]["sha256"] for name in names if name in files}


def _shipped(path: Path) -> Any:
    """Content of a shipped JSON file, which is read again only if it changed; a page asks for it once for each row."""
    file = shipped_path(path)
    facts = file.stat() if file.exists() else None
    return _content(file, facts and (facts.st_mtime_ns, facts.st_size, facts.st_ino))


@lru_cache(maxsize=8)
def _content(file: Path, state: tuple[int, int, int] | None) -> Any:
    """Content of a JSON file in this state."""
    return read_json(file)


def changelog_digest(changelog: str) -> str:
    """Return the digest of the changelog entries that say that a value in the tables changed."""
    entries = [" ".join(entry.partition("\n\n")[0].split()) for entry in changelog.split("\n- ")]
    return sha256_json(sorted(entry for entry in entries if entry.startswith(MARK)))


def _without_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_words(of) for key, of in value.items() if key not in WORDS_ONLY}
    return [_without_words(of) for of in value] if isinstance(value, list | tuple) else value
