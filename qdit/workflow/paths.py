"""Check the paths of a profile, so that a profile cannot choose which files this program runs or overwrites.

The profile may come from an unknown person. Every path is relative to the checkout and stays in its data folders.
Downloads use https or the Hugging Face hub. They go to folders of inputs, under names that neither Python nor Snakemake
nor a shell would load. SECURITY.md explains this to readers.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from qdit.core.errors import ConfigError
from qdit.core.repository import ROOT
from qdit.metrics.vbench.needed_weights import SOURCES

FETCHED_FOLDERS = ("weights", "data")
DATA_FOLDERS = (*FETCHED_FOLDERS, "results")
"""Folders of the checkout in which the files of a profile lie. Each may itself be a link to another disk."""

PROMPT_FOLDER = "config"
"""Suites of prompts and allocations may also be JSON files of this folder."""

RESERVED_RESULTS = ("published", "studies", "gpu")
"""Folders of results/ that belong to the repository, so no profile may have their names."""

LOADED_SUFFIXES = frozenset(
    f".{suffix}"
    for suffixes in (
        ("py", "pyc", "pyo", "pyd", "pyw", "pyz", "egg", "egg-link", "whl", "so", "dylib", "dll", "exe", "com", "smk"),
        ("sh", "bash", "zsh", "fish", "ksh", "csh", "bat", "cmd", "ps1", "desktop", "service"),
    )
    for suffix in suffixes
)
LOADED_NAMES = frozenset({"snakefile", "makefile", "gnumakefile", "dockerfile"})
PYTHON_NAME = re.compile(r"python(\d+(\.\d+)*)?")
HUB = "https://huggingface.co/{hub}/resolve/main/{file}"
WHOLE_DIGEST = 64


def check_paths(profile: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first path of a profile that is not allowed."""
    if profile["profile"] in RESERVED_RESULTS:
        raise ConfigError(
            f"profile: found {profile['profile']!r}, but results/{profile['profile']} belongs to the repository;"
            " choose another name"
        )
    for where, path, prompts in paths_of(profile):
        require_data_path(path, where, prompts=prompts)
    for path, entry in profile.get("files", {}).items():
        require_fetchable(path, entry)
    python = profile.get("vbench", {}).get("python")
    if python is not None:
        require_python(python)


def paths_of(profile: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield (position, path, flag) of every file or folder that a profile reads.

    The flag says whether the path may also be a JSON file of config/.
    """
    for name, model in profile["models"].items():
        for form, path in model["forms"].items():
            yield f"models.{name}.forms.{form}", path, False
        for key in ("vae", "text_encoder", "instruments"):
            if key in model:
                yield f"models.{name}.{key}", model[key], False
    for name, setting in profile["settings"].items():
        for key in ("prompts", "calibration_prompts") if "call" in setting else ():
            yield f"settings.{name}.call.{key}", setting["call"][key], False
    for judge, entry in profile.get("judges", {}).items():
        for key, path in entry.items():
            yield f"judges.{judge}.{key}", path, False
    for section in ("extractors", "references"):
        for name, path in profile.get(section, {}).items():
            yield f"{section}.{name}", path, False
    for key in ("backbone", "linear") if "perceptual" in profile else ():
        yield f"perceptual.{key}", profile["perceptual"][key], False
    for label, entry in profile["methods"].items():
        if "allocation" in entry:
            yield f"methods.{label}.allocation", entry["allocation"], True
        for bits, path in entry.get("images", {}).items():
            yield f"methods.{label}.images.{bits}", path, False
    for section, key, prompts in (("video", "suite", True), ("vbench", "weights", False), ("fvd", "i3d", False)):
        if section in profile:
            yield f"{section}.{key}", profile[section][key], prompts


def require_data_path(path: str, where: str, *, prompts: bool = False, folders: tuple[str, ...] = DATA_FOLDERS) -> None:
    """Raise ConfigError unless `path` is relative and lies below one of the folders, even if links are followed.

    With `prompts` a JSON file of config/ is allowed too. `where` is the position of the path in the profile.
    """
    parts, named = PurePosixPath(path).parts, f"{where}: found {path!r}"
    allowed = ", ".join(f"{folder}/" for folder in folders) + (f" or {PROMPT_FOLDER}/*.json" if prompts else "")
    expected = f"expected a path below {allowed} of the checkout; put the file there"
    if not path.isprintable() or set(path) & set("{}\\"):
        raise ConfigError(f"{named}, which has a line end, a brace or a backslash; rename the file")
    if path.startswith(("/", "~")) or ".." in parts or len(parts) < 2:
        raise ConfigError(f"{named}, {expected}")
    in_config = prompts and parts[0] == PROMPT_FOLDER and path.endswith(".json")
    if parts[0] not in folders and not in_config:
        raise ConfigError(f"{named}, {expected}")
    for base in {ROOT, Path.cwd()}:
        if not (base / path).resolve().is_relative_to((base / parts[0]).resolve()):
            raise ConfigError(
                f"{named}, which is a link out of {parts[0]}/ to {(base / path).resolve()}; put the file there, or make"
                f" {parts[0]} itself the link"
            )


def require_fetchable(path: str, entry: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a profile may download a file to `path` from the source in `entry`.

    Files that VBench runs or unpickles must come from VBench's own addresses. A digest in the profile proves nothing
    for them: the author of the address is also the author of the digest.
    """
    where = f"files.{path}"
    require_data_path(path, where, folders=FETCHED_FOLDERS)
    if "url" in entry and not is_https(entry["url"]):
        raise ConfigError(f"{where}.url: found {entry['url']!r}, expected an address that begins with https://")
    if "file" in entry and not is_inside(entry["file"]):
        raise ConfigError(f"{where}.file: found {entry['file']!r}, expected a path inside the hub's repository")
    source = next((SOURCES[name] for name in SOURCES if f"/{path}".endswith(f"/{name}")), None)
    address = HUB.format(**entry) if {"hub", "file"} <= entry.keys() else entry.get("url")
    if source is not None and (address != source or entry.get("revision", "main") != "main"):
        raise ConfigError(f"{where}: found {address}; VBench runs or unpickles this file, it comes from {source} only")
    if source is None and (name := loaded_part(path)):
        raise ConfigError(
            f"{where}: {name!r} is a name that Python, Snakemake or a shell may load; only data are fetched, rename it"
        )


def is_https(url: str) -> bool:
    """Return whether an address begins with https:// and names a host."""
    try:
        split = urlsplit(url)
        return split.scheme == "https" and bool(split.hostname) and url.isprintable() and " " not in url
    except ValueError:
        return False


def is_inside(file: str) -> bool:
    """Return whether a relative path stays inside its folder."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in file


def loaded_part(path: str) -> str | None:
    """Return the part of a path that a program would load as code or configuration; None if there is none."""
    *folders, name = PurePosixPath(path).parts
    if Path(name).suffix.lower() in LOADED_SUFFIXES or name.lower() in LOADED_NAMES:
        return name
    hidden = (folder for folder in (*folders, name) if folder.startswith("."))
    return next(hidden, None) or next(
        (folder for folder in folders if folder in ("__pycache__", "site-packages")), None
    )


def require_plain_folders(*folders: str | Path) -> None:
    """Raise ConfigError for a folder with braces or line ends, which Snakemake would read as a pattern."""
    for folder in folders:
        if set(str(folder)) & set("{}\n"):
            raise ConfigError(
                f"{folder}: Snakemake reads braces in a path as wildcards and no job could run; move the checkout to a"
                " path without braces or line ends (spaces, quotes and $ are fine)"
            )


def require_python(path: str) -> None:
    """Raise ConfigError if the Python interpreter that a profile names could be a downloaded file."""
    if not PYTHON_NAME.fullmatch(PurePosixPath(path).name) or PurePosixPath(path).parts[0] in FETCHED_FOLDERS:
        raise ConfigError(
            f"vbench.python: found {path!r}, expected a file named python, python3 or the like, outside"
            f" {' and '.join(f'{folder}/' for folder in FETCHED_FOLDERS)}"
        )
    if ".." in PurePosixPath(path).parts or not path.isprintable():
        raise ConfigError(f"vbench.python: found {path!r}, expected a path without ..")


def is_verified(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry of `files` has the whole sha256, so that a download can be checked."""
    return len(entry.get("sha256") or "") == WHOLE_DIGEST
