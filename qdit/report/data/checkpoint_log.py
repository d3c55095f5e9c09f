"""Read the log of a quantization from checkpoint/config.json: learned rounding, and layers without calibration data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdit.core.errors import QditError
from qdit.core.files import read_json
from qdit.quant.folder import CONFIG_FILE, checkpoint_in_diffusers, require_unedited


@dataclass(frozen=True)
class CheckpointLog:
    """The log of a quantization as name → value; empty without a checkpoint.

    `problem` says in one line why a file is not used.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def silent_layers(self) -> tuple[str, ...]:
        """Names of the layers whose calibration inputs are all zero. GPTQ used round to nearest for them."""
        names = self.values.get("rounded_to_nearest", ())
        return tuple(map(str, names)) if isinstance(names, list) else ()


def read_log(folder: Path) -> CheckpointLog:
    """Read the log from the checkpoint in the folder of a run. The stored digest must match the content."""
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
