"""The step that quantizes weights with a tool. Its folder takes the place of a checkpoint.

The folder has the config.json of a checkpoint, with the part `tool` instead of sites; `diffusers/`, the transformer
before the tool; and model.safetensors, all tensors that the tool keeps. Samples are made by quantizing `diffusers/`
anew, since each tool has its own way to load what it saved.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.digest import code_digest
from qdit.core.errors import CheckpointError, ConfigError, Unsupported
from qdit.core.files import atomic_path, read_json, save_tensors, sha256_file, write_json
from qdit.core.run import split_bits
from qdit.models.diffusers_format import IN_BLOCK, to_diffusers
from qdit.models.dit import DiT
from qdit.models.loading import load_model
from qdit.models.network import require_dit
from qdit.models.weights_files import weights_sha256
from qdit.quant.folder import CONFIG_FILE, FORMAT, TENSORS_FILE, read_config, with_digest
from qdit.sampling.calibration_set import load_calibration_of
from qdit.sampling.tools.process import quantized_facts, started
from qdit.sampling.tools.registry import KnownTool, find_tool

KEY = "tool"
"""Key of config.json that only the folder of a tool has."""
FORM = "diffusers"
"""Folder of the transformer before the tool."""
STEP = "qdit.sampling.tools.quantizing"
DRIVER = "qdit.sampling.tools.driver"
CALIBRATION_FILE = "calibration.safetensors"
CALIBRATION_BATCH, CALIBRATION_SAMPLES = 32, 256


@dataclass(frozen=True)
class ToolJob:
    """Inputs of a tool's quantization: tool, Python of its environment, bits, and calibration data.

    The data are of kind `trajectory`. Only a tool that measures ranges takes them.
    """

    tool: str
    python: Path
    bits: str
    calibration: Path | None = None
    threads: int = 1

    @property
    def known(self) -> KnownTool:
        """The tool of this job; ConfigError for an unknown name."""
        return find_tool(self.tool)

    def require_possible(self) -> None:
        """Raise Unsupported for bits that the tool cannot do, and ConfigError for missing calibration data."""
        split_bits(self.bits)
        if reason := self.known.tool.refusal(self.bits):
            raise Unsupported(reason)
        if self.bits in self.known.tool.calibrated and self.calibration is None:
            raise ConfigError(
                f"{self.tool}: measures ranges of activations at {self.bits}; give --calibration, a file of `qdit"
                " calibrate --kind trajectory`"
            )


def code_of(known: KnownTool) -> str:
    """Digest of the step's code and of the tool's file."""
    return code_digest(STEP, DRIVER, known.module)


def layers_of(depth: int) -> list[str]:
    """Names, in diffusers, of the linears that scope common quantizes in all blocks.

    They are q, k, v and the output of attention, and both linears of the MLP.
    """
    linears = [f"attn1.to_{name}" for name in "qkv"]
    linears += [IN_BLOCK[name] for name in ("attn.proj", "mlp.fc1", "mlp.fc2")]
    return [f"transformer_blocks.{block}.{linear}" for block in range(depth) for linear in linears]


def quantize_by_tool(weights: Path, out: Path, job: ToolJob) -> dict[str, Any]:
    """Quantize weights of a DiT with a tool, and write the folder `out`. Return the facts in its config.json.

    Raises Unsupported for bits that the tool cannot do and if it leaves layers unchanged, ConfigError if its package is
    not installed, and ToolFailed if its own code fails.
    """
    job.require_possible()
    model = require_dit(load_model(weights), where=str(weights))
    out.mkdir(parents=True, exist_ok=True)
    to_diffusers(model, out / FORM)
    write_calibration(out, weights, model, job)
    with atomic_path(out / TENSORS_FILE) as temporary, tempfile.TemporaryDirectory(dir=out) as folder:
        saved = Path(folder, TENSORS_FILE)
        content = process_job(out, job, depth=model.config.depth) | {"out": str(saved.resolve())}
        with started(job.known, job.python, content, threads=job.threads) as pipe:
            facts = quantized_facts(pipe, job.known, job.bits)
        shutil.copyfile(saved, temporary)
    config = {
        "format": FORMAT,
        "model": {"family": "dit", "config": model.config.to_dict()},
        "sites": {},
        "correction": None,
        KEY: described(job.known, facts, job.bits),
        "record": record_of(job, weights),
        "log": {},
        "files": {TENSORS_FILE: sha256_file(out / TENSORS_FILE)},
    }
    write_json(out / CONFIG_FILE, with_digest(config))
    return config


def write_calibration(out: Path, weights: Path, model: DiT, job: ToolJob) -> None:
    """Write the calibration data that the tool's process reads. Without such data, remove those of an earlier job."""
    path = out / CALIBRATION_FILE
    if job.calibration is None or job.bits not in job.known.tool.calibrated:
        path.unlink(missing_ok=True)
        return
    data = load_calibration_of(job.calibration, model.config, weights)
    data = data.scattered(CALIBRATION_SAMPLES) if len(data) > CALIBRATION_SAMPLES else data
    save_tensors(path, {"x": data.x.float(), "timestep": data.timestep.long(), "label": data.label.long()})


def record_of(job: ToolJob, weights: Path) -> dict[str, Any]:
    """The part `record` of config.json, with the same fields as in a checkpoint of the suite."""
    weight_bits, activation_bits = split_bits(job.bits)
    used = job.calibration is not None and job.bits in job.known.tool.calibrated
    return {
        "method": job.tool,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "scope": "common",
        "options": {},
        "allocation_sha256": None,
        "code": code_of(job.known),
        "weights_sha256": weights_sha256(weights),
        "calibration_sha256": {"trajectory": sha256_file(job.calibration)} if used and job.calibration else {},
    }


def described(known: KnownTool, facts: Mapping[str, Any], bits: str) -> dict[str, Any]:
    """Facts about a tool and its result, for config.json."""
    kept = ("layers", "float_bytes", "memory_bytes", "versions")
    tool = known.tool
    texts = {name: getattr(tool, name) for name in ("name", "printed", "package", "licence", "address")}
    return texts | {name: facts[name] for name in kept} | {"does": tool.bits[bits]}


def process_job(folder: Path, job: ToolJob, *, depth: int) -> dict[str, Any]:
    """The job, as a JSON value, with which a tool's process quantizes the transformer of `folder` again."""
    calibration = folder / CALIBRATION_FILE
    return {
        "model": str((folder / FORM).resolve()),
        "bits": list(split_bits(job.bits)),
        "layers": layers_of(depth),
        "calibration": str(calibration.resolve()) if calibration.is_file() else None,
        "batch": CALIBRATION_BATCH,
        "out": None,
    }


def is_tools(folder: Path) -> bool:
    """Whether a folder was written by `quantize_by_tool` and is no checkpoint of ours. False if it cannot be read."""
    try:
        return KEY in read_json(folder / CONFIG_FILE, error=CheckpointError)
    except (CheckpointError, TypeError):
        return False


def read_tool_folder(folder: Path) -> dict[str, Any]:
    """Read the config.json of a tool's folder. CheckpointError for a checkpoint of ours, or a damaged folder."""
    config = read_config(folder)
    if KEY not in config:
        raise CheckpointError(f"{folder}: holds a checkpoint of `qdit quantize`; sample it with `qdit sample`")
    return config
