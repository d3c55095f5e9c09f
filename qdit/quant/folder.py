"""The folder of a checkpoint as files, for steps that load no model: its names, its identity, a recorded failure."""

from pathlib import Path

from qdit.core.errors import CheckpointError
from qdit.core.failure import Failure
from qdit.core.files import read_json, save_tensors, sha256_file, write_json

FAILURE_FORMAT = 1
TENSORS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def checkpoint_sha256(folder: Path) -> str:
    """The identity of a checkpoint: the digest of its configuration, which holds that of its tensors."""
    return sha256_file(folder / CONFIG_FILE)


def write_failure(folder: Path, failure: Failure) -> None:
    """Write the folder of a checkpoint that could not be made: the reason, and no tensors."""
    save_tensors(folder / TENSORS_FILE, {})
    write_json(folder / CONFIG_FILE, {"format": FAILURE_FORMAT, **failure.to_dict()})


def read_failure(folder: Path) -> Failure | None:
    """Why this folder holds no checkpoint; None if it holds one."""
    config = read_json(folder / CONFIG_FILE, error=CheckpointError)
    try:
        return Failure.within(config)
    except TypeError:
        raise CheckpointError(f"{folder}: holds a failure that cannot be read; quantize again") from None
