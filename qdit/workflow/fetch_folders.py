"""Download the whole folder of a pipeline of diffusers. Only `qdit fetch` calls this."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError
from qdit.workflow.profile_pipelines import FIRST_FILE

KINDS = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Files of a pipeline that are fetched: configurations, weights, vocabularies. Never pickles and never code."""

Snapshot = Callable[..., str]
"""`huggingface_hub.snapshot_download`, or what a test puts in its place."""


def is_whole_folder(path: Path) -> bool:
    """Return whether a folder is that of a pipeline (it has the pipeline's first file), or holds PNG images."""
    return (path / FIRST_FILE).is_file() or next(path.glob("*.png"), None) is not None


def fetch_folder(
    path: Path, entry: Mapping[str, Any], *, allow_unverified: bool, snapshot: Snapshot | None = None
) -> bool:
    """Download a pipeline unless it is there; return whether it was downloaded.

    The hub's client checks each file against the hub's own digest. No profile has the digests of a whole folder, so
    `allow_unverified` must be true (else ConfigError). Only files at the top of the repository and one folder below are
    downloaded. DataError if the download fails or holds no pipeline.
    """
    if is_whole_folder(path):
        return False
    if not allow_unverified:
        raise ConfigError(
            f"{path}: the digests of a whole pipeline are not known, so what arrives from {entry['hub']} cannot be"
            f" checked; pass --allow-unverified {path}"
        )
    if snapshot is None:
        from huggingface_hub import snapshot_download

        snapshot = snapshot_download
    arriving = path.with_name(f".{path.name}.hub")
    arriving.parent.mkdir(parents=True, exist_ok=True)
    revision = {"revision": entry["revision"]} if "revision" in entry else {}
    patterns = [f"{folder}{kind}" for folder in ("", "*/") for kind in KINDS]
    try:
        snapshot(repo_id=entry["hub"], local_dir=arriving, allow_patterns=patterns, **revision)
    except Exception as problem:  # of the client's many kinds none is ours
        raise DataError(
            f"Hugging Face {entry['hub']}: cannot be downloaded ({type(problem).__name__}:"
            f" {' '.join(str(problem).split())[:200]}); check the name; for some models you must first"
            " accept the licence and log in"
        ) from None
    if not (arriving / FIRST_FILE).is_file():
        raise DataError(
            f"Hugging Face {entry['hub']}: has no {FIRST_FILE}, so it is not a pipeline of diffusers; correct the name"
        )
    shutil.rmtree(arriving / ".cache", ignore_errors=True)
    os.replace(arriving, path)
    return True
