"""The step that makes chunks of images from the checkpoint of a diffusers transformer, by the whole pipeline.

The pipeline's own transformer is replaced by that of the checkpoint. Image i has prompt i (after the last prompt they
begin again) and its own random generator, whose seed depends only on (root seed, i). So all methods see the same noise.
A chunk is one call of the pipeline. Of a clip only some frames are kept, at equal distances. Each kept frame counts as
one image, and the frames of a clip have consecutive image numbers.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.errors import CheckpointError, ConfigError, Diverged, Unsupported
from qdit.core.failure import Failure, recording
from qdit.core.files import load_tensors, read_json, sha256_json
from qdit.core.seeds import Purpose, torch_generator
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.network import config_class, empty_network
from qdit.models.weights_files import PIPELINE_FILE
from qdit.quant.diffusers_layers import fill_network
from qdit.quant.folder import checkpoint_sha256, read_config, tensors_file
from qdit.sampling.chunks import SIMULATE, Mode, Shard, handed_on, make_chunks
from qdit.sampling.family import Arrays
from qdit.sampling.origin import MODEL_FACTS, Origin, facts_of
from qdit.sampling.pipeline_folder import load_pipeline, rest_sha256
from qdit.sampling.pipeline_protocol import PipelineImages
from qdit.sampling.precision import DTYPES

FAMILY = PipelineImages.family
COLUMNS = ("images", "labels", "prompts")
SECOND = "transformer_2"
"""Second transformer of some pipelines (Wan 2.2), which no checkpoint holds."""


@dataclass(frozen=True)
class PipelineSampleJob:
    """One shard of a checkpoint's images, made by the pipeline in `folder` from these prompts.

    `images` counts the images of the whole run; for clips these are the kept frames. The protocol's `pipeline` and
    `decoder` are read from the folder. `mode` is `SIMULATE`, or `PIPELINE_INTEGER` of `qdit.sampling.integer`.
    """

    folder: Path
    checkpoint: Path
    out: Path
    prompts: Sequence[str]
    protocol: PipelineImages
    images: int
    chunk: int
    shard: int = 0
    chunks_per_shard: int = 1_000_000
    device: str = "cpu"
    record_failure: bool = False
    mode: Mode = SIMULATE

    @property
    def part(self) -> Shard:
        """The shard of this job.

        ConfigError for a chunk size that would divide the frames of a clip between two chunks.
        """
        per_clip = max(1, self.protocol.frames)
        if self.chunk % per_clip or self.images % per_clip:
            raise ConfigError(
                f"images {self.images} and chunk {self.chunk}: {per_clip} frames of each clip are kept, so both must be"
                f" multiples of {per_clip}"
            )
        return Shard(self.images, self.chunk, self.shard, self.chunks_per_shard)


def sample_pipeline(job: PipelineSampleJob) -> Path:
    """Sample one shard of images, write the list of its chunks, and return the path of the list.

    Recorded failures and existing chunks are treated as in `qdit.sampling.run.sample_checkpoint`. Raises
    CheckpointError for the checkpoint of another family, and Unsupported for a pipeline with two transformers.
    """
    device, shard = torch_device(job.device), job.part
    if handed_on(job.checkpoint, partial(write_failed, job)):
        return shard.path(job.out)
    origin = origin_of(job)

    def write(failure: Failure) -> None:
        shard.write(job.out, job.mode, {**shard.listing(origin.to_dict()), **failure.to_dict()}, device=device)

    with recording("sample", write, enabled=job.record_failure):
        pipeline = load_pipeline(job.folder, job.protocol.dtype, transformer=transformer_of(job)).to(device)
        require_one_transformer(pipeline, job.folder)
        chunks = make_chunks(shard, job.out, origin.to_dict(), COLUMNS, Calls(pipeline, job.prompts, job.protocol))
    return shard.write(job.out, job.mode, {**shard.listing(origin.to_dict()), "chunks": chunks}, device=device)


def origin_of(job: PipelineSampleJob) -> Origin:
    """The origin of the job's images: everything that they depend on."""
    stored = read_config(job.checkpoint)
    if stored["model"]["family"] != FAMILY:
        raise CheckpointError(
            f"{job.checkpoint}: holds a {stored['model']['family']}, no transformer of a pipeline; sample it without"
            " --pipeline"
        )
    return Origin(
        family=FAMILY,
        protocol=facts_of(protocol_of(job)),
        shape=(),
        chunk=job.chunk,
        checkpoint_sha256=checkpoint_sha256(job.checkpoint),
        model={fact: stored["record"].get(fact) for fact in MODEL_FACTS},
        mode=job.mode.on(torch.device(job.device)),
        code=code_digest("qdit.sampling.pipeline_images"),
        prompts={"count": len(job.prompts), "sha256": sha256_json(list(job.prompts))},
    )


def protocol_of(job: PipelineSampleJob) -> PipelineImages:
    """The job's protocol, completed with the class of its pipeline and the digest of the pipeline's files."""
    index = read_json(job.folder / PIPELINE_FILE, error=CheckpointError)
    return replace(
        job.protocol, pipeline=str(index.get("_class_name")), decoder=f"pipeline sha256:{rest_sha256(job.folder)}"
    )


def write_failed(job: PipelineSampleJob, failure: Failure) -> None:
    """Write the list of a shard that has no chunks because quantizing failed."""
    facts = {"family": FAMILY, "protocol": facts_of(job.protocol)}
    origin = facts | {"checkpoint_sha256": checkpoint_sha256(job.checkpoint)}
    job.part.write(job.out, job.mode, {**job.part.listing(origin), **failure.to_dict()})


def transformer_of(job: PipelineSampleJob) -> Any:
    """The transformer of a checkpoint as its pipeline runs it: packed layers that compute in the job's precision.

    In integer mode they multiply integers. Unsupported with the name of the first layer that has no integer kernel.
    """
    stored = read_config(job.checkpoint)
    file = tensors_file(stored)
    tensors, _ = load_tensors(job.checkpoint / file, sha256=stored["files"][file])
    network = empty_network(config_class(FAMILY, error=CheckpointError)(**stored["model"]["config"]))
    assert isinstance(network, DiffusersNetwork)
    in_full = getattr(network.transformer, "_keep_in_fp32_modules", None) or ()
    try:
        fill_network(network, stored, tensors, dtype=DTYPES[job.protocol.dtype], in_full=in_full)
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        text = " ".join(str(problem).split())[:300]
        raise CheckpointError(
            f"{job.checkpoint}: configuration and tensors disagree ({text}); quantize again"
        ) from None
    transformer = network.transformer.eval()
    return transformer if job.mode is SIMULATE else job.mode.prepare(transformer)


def require_one_transformer(pipeline: Any, folder: Path) -> None:
    """Raise Unsupported for a pipeline that denoises with two transformers: only one of them would be quantized."""
    if getattr(pipeline, SECOND, None) is not None:
        raise Unsupported(
            f"{folder}: {type(pipeline).__name__} has a second transformer ({SECOND}), and a checkpoint holds one;"
            " give a pipeline with one transformer (Wan 2.1)"
        )


@dataclass(frozen=True)
class Calls:
    """Object that makes the images of a run; each chunk is one call of the pipeline."""

    pipeline: Any
    prompts: Sequence[str]
    protocol: PipelineImages

    def __call__(self, samples: range, count: int) -> Arrays:
        """Columns of a chunk: uint8 images (count, 3, H, W), their prompts, and labels −1."""
        per_clip = max(1, self.protocol.frames)
        clips = range(samples.start // per_clip, samples.stop // per_clip)
        prompts = [self.prompts[index % len(self.prompts)] for index in clips]
        images = to_pixels(self.pipeline_output(prompts, clips), self.protocol.frames)[:count]
        repeated = np.repeat(np.array(prompts), per_clip)[:count]
        return {"images": images, "labels": np.full(count, -1, np.int64), "prompts": repeated}

    def pipeline_output(self, prompts: list[str], clips: range) -> np.ndarray:
        """Call the pipeline once. Its output in [0, 1] is images (N, H, W, 3) or clips (N, T, H, W, 3)."""
        parameters = inspect.signature(type(self.pipeline).__call__).parameters
        values: dict[str, Any] = {
            "num_inference_steps": self.protocol.steps,
            "guidance_scale": self.protocol.cfg_scale,
            "generator": [torch_generator(self.protocol.seed, Purpose.INITIAL_NOISE, index) for index in clips],
            **self.protocol.arguments,
            "output_type": "np",
        }
        if unknown := [name for name in values if name not in parameters]:
            raise ConfigError(
                f"{type(self.pipeline).__name__} has no argument {unknown[0]!r}; allowed are {', '.join(parameters)}"
            )
        with torch.no_grad():
            output = self.pipeline(prompt=prompts, **values)
        samples = output.frames if self.protocol.frames else output.images
        return np.asarray(samples, np.float32)


def to_pixels(values: np.ndarray, frames: int) -> np.ndarray:
    """Convert images (N, H, W, 3) in [0, 1] to uint8 (N, 3, H, W), and clips (N, T, H, W, 3) to (N · frames, 3, H, W).

    Of a clip, evenly spaced frames are taken; a single one is the middle one. Values are rounded as diffusers does it.
    Raises Diverged if a value is not finite, and ConfigError for an output of another shape.
    """
    if values.ndim != (5 if frames else 4) or values.shape[-1] != 3:
        raise ConfigError(
            f"the pipeline's output has the shape {values.shape}; expected are"
            f" {'clips (N, T, H, W, 3)' if frames else 'images (N, H, W, 3), or state the frames to keep of clips'}"
        )
    if not np.isfinite(values).all():
        raise Diverged("sampled images hold NaN or infinity; the quantized model diverges at these bits")
    if frames:
        if frames > values.shape[1]:
            raise ConfigError(f"frames {frames}: the clips have {values.shape[1]} frames only")
        length = values.shape[1]
        kept = np.linspace(0, length - 1, frames).round().astype(int) if frames > 1 else np.array([length // 2])
        values = values[:, kept].reshape(-1, *values.shape[2:])
    return np.ascontiguousarray((values.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 3, 1, 2))


def arguments_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The further arguments of a pipeline's call; ConfigError for an argument that the protocol sets already."""
    for name in ("prompt", "num_inference_steps", "guidance_scale", "generator", "output_type"):
        if name in values:
            raise ConfigError(f"--arguments: {name} is decided by another flag; leave it out")
    return cast(dict[str, Any], dict(values))
