"""The step that records a calibration set from a pipeline folder: the pipeline is loaded, called, and recorded.

Only local safetensors files are loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.errors import CheckpointError, ConfigError
from qdit.core.files import read_json, sha256_file, sha256_json
from qdit.core.provenance import packages
from qdit.models.generic.loading import is_transformer_folder
from qdit.models.weights_files import PIPELINE_FILE, TRANSFORMER, model_folder, weights_sha256
from qdit.sampling.keyword_file import save_keywords
from qdit.sampling.pipelines import record_pipeline
from qdit.sampling.precision import DTYPES

LIBRARIES = ("diffusers", "transformers")
"""Packages whose classes a pipeline folder may name."""


@dataclass(frozen=True)
class PipelineJob:
    """Inputs of the recording step: a pipeline `folder` in diffusers' layout, prompts, and arguments of the calls."""

    folder: Path
    out: Path
    kind: str
    prompts: Sequence[str]
    steps: int
    seed: int = 0
    dtype: str = "float32"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"


def calibrate_pipeline_folder(job: PipelineJob) -> None:
    """Run a job: load the pipeline, record the calls of its transformer, and write the calibration set.

    Text encoders and VAE are freed after use.
    """
    pipeline = load_pipeline(job.folder, job.dtype).to(torch_device(job.device))
    digest = weights_sha256(job.folder)
    data = record_pipeline(
        pipeline,
        job.prompts,
        steps=job.steps,
        kind=job.kind,
        seed=job.seed,
        arguments=job.arguments,
        release=True,
        weights_sha256=digest,
    )
    facts = {
        "weights_sha256": digest,
        "code": code_digest("qdit.sampling.pipelines", "qdit.sampling.keyword_file"),
        "packages": packages(),
        "arguments": dict(job.arguments),
        "prompts": list(job.prompts),
    }
    save_keywords(job.out, data, facts)


def load_pipeline(folder: Path, dtype: str, **components: Any) -> Any:
    """Load the pipeline of a local folder in the precision `dtype`.

    `components` (such as a transformer) take the place of those in the folder. Raises CheckpointError for a folder that
    names code of its own, or that diffusers cannot load. Only safetensors are read, and nothing is downloaded.
    """
    import diffusers

    require_known_classes(folder)
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=DTYPES[dtype], **components
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as problem:
        raise CheckpointError(f"{folder}: diffusers cannot load it ({' '.join(str(problem).split())[:300]})") from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def require_known_classes(folder: Path) -> None:
    """Raise CheckpointError unless a pipeline folder names only classes of diffusers and transformers."""
    import diffusers

    values = read_json(folder / PIPELINE_FILE, error=CheckpointError)
    name = values.get("_class_name") if isinstance(values, dict) else None
    if not isinstance(name, str) or not isinstance(getattr(diffusers, name, None), type):
        raise CheckpointError(f"{folder}: pipeline class {name!r:.60}: diffusers {diffusers.__version__} has no such")
    for key, value in values.items():
        if isinstance(value, list) and value[:1] != [None] and (len(value) != 2 or value[0] not in LIBRARIES):
            raise CheckpointError(
                f"{folder}: {key} names {value!r:.80}; allowed are classes of {' and '.join(LIBRARIES)}"
            )


def rest_sha256(folder: Path) -> str:
    """Digest of all files in a pipeline folder except those of its transformer: text encoders, VAE, scheduler."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_hidden(path.relative_to(folder))]
    kept = [path for path in files if path.relative_to(folder).parts[0] != TRANSFORMER]
    return sha256_json({str(path.relative_to(folder)): sha256_file(path) for path in kept})


def is_hidden(path: Path) -> bool:
    """Whether a name in a path begins with a dot, as files of a downloader do."""
    return any(part.startswith(".") for part in path.parts)


def is_pipeline_folder(path: Path) -> bool:
    """Whether a path is a folder of a diffusers pipeline, whose transformer is not a DiT of this suite."""
    return (path / PIPELINE_FILE).is_file() and is_transformer_folder(model_folder(path))


def read_prompts(path: Path) -> list[str]:
    """Read the prompts of a text file, one in each line, without empty lines; ConfigError if there is none.

    A byte order mark, with which some editors begin a file, is not part of the first prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"{path}: cannot be read as text ({' '.join(str(problem).split())})") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"{path}: holds no prompt; write one prompt a line")
    return prompts
