"""The log of a run's quantization in checkpoint/config.json: learned rounding, and layers without calibration data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdit.core.errors import QditError
from qdit.core.files import read_json
from qdit.quant.folder import CONFIG_FILE, checkpoint_in_diffusers, require_unedited


@dataclass(frozen=True)
class CheckpointLog:
    """Values of the log by name; empty without a checkpoint. `problem` says in one line why a file is not used."""

    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def silent_layers(self) -> tuple[str, ...]:
        """Layers whose calibration inputs are all zero: GPTQ rounded them to nearest."""
        names = self.values.get("rounded_to_nearest", ())
        return tuple(map(str, names)) if isinstance(names, list) else ()


def read_log(folder: Path) -> CheckpointLog:
    """The log in the checkpoint of a run's folder, which must have the digest of its content."""
    path = folder / "checkpoint" / CONFIG_FILE
    if not path.is_file():
        return CheckpointLog()
    try:
        config = read_json(path)
        if not isinstance(config, dict):
            return CheckpointLog(problem=f"{path}: not a checkpoint's configuration; quantize again")
        if "failure" in config:
            return CheckpointLog()
        config = checkpoint_in_diffusers(config) or config
        require_unedited(config, where=str(path), remedy="quantize again")
    except (QditError, OSError) as problem:
        return CheckpointLog(problem=" ".join(str(problem).split()))
    log = config.get("log")
    return CheckpointLog(log if isinstance(log, dict) else {})
