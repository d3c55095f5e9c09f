"""Inputs of the step that makes metrics.json from samples, and checks that they agree with the samples.

Protocol, number of samples and checkpoint are read from the samples. Flags may repeat these values, but not change
them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError
from qdit.core.failure import Failure, say
from qdit.core.files import sha256_json
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.metrics_record import Status, without_numbers, write_record
from qdit.core.run import IMPORTED
from qdit.metrics.bootstrap import RESAMPLES
from qdit.metrics.samples import Shard, listed_shards, read_shard, shard_path
from qdit.quant.folder import checkpoint_sha256, read_config, read_failure
from qdit.sampling.origin import AnyProtocol, Origin, difference, require_repeated

SHOWN = 12
"""Digits of a digest in a message."""


@dataclass(frozen=True)
class RunName:
    """Name of a run in a profile: setting, model, form of the weights, label of the method, number of the replicate."""

    setting: str
    model: str
    form: str
    label: str
    replicate: int = 0

    @property
    def replicates(self) -> dict[str, int]:
        """The field `replicate` for the record of a run; no field for replicate 0."""
        return {"replicate": self.replicate} if self.replicate else {}


@dataclass(frozen=True)
class EvaluateJob:
    """Inputs of the evaluation of a checkpoint's samples: `out` is the metrics.json to write.

    `fp_samples` are full-precision samples of the same noise. Imported samples have no checkpoint; `claimed` is what
    their importer says of them (bits, scope). `count` and `stated` (values of the protocol) must agree with the
    samples, if they are given. `resamples` is the number of resampled values for each interval.
    """

    samples: Path
    checkpoint: Path | None
    out: Path
    name: RunName
    fp_samples: Path | None = None
    resamples: int = RESAMPLES
    count: int | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)
    claimed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SampledRun:
    """A sampled run: the lists of its chunks, and the origin of its samples."""

    shards: Sequence[Shard]
    origin: Origin

    @property
    def protocol(self) -> AnyProtocol:
        """The protocol of the samples; DataError for imported ones, which have none."""
        return self.origin.sampled_by(self.shards[0].path)

    @property
    def count(self) -> int:
        """Number of samples in the whole run."""
        return self.shards[0].images

    @property
    def code(self) -> str:
        """Digest of the code that made the samples."""
        return self.origin.mode.get("code", self.origin.code)


def open_run(job: EvaluateJob) -> SampledRun | None:
    """Open the samples that a job scores.

    If an earlier step recorded a failure, write it to metrics.json and return None. Raises DataError for samples of
    another checkpoint, for changed files, and for full-precision samples of another protocol or other weights. Raises
    ConfigError for stated values that the samples contradict.
    """
    quantizing = None
    if job.checkpoint is not None and not are_imported(job.samples):
        quantizing = read_failure(job.checkpoint)
    if failure := quantizing or sampling_failure(job.samples, job.count):
        write_error(job.out, failure)
        return None
    shards = listed_shards(job.samples, images=job.count)
    if job.fp_samples is not None and (failure := sampling_failure(job.fp_samples, shards[0].images)):
        write_error(job.out, failure, of="full precision")
        return None
    origin = shards[0].made_of()
    require_checkpoint(job, origin)
    require_repeated(job.samples, origin.protocol, job.stated)
    if job.fp_samples is not None:
        full = listed_shards(job.fp_samples, images=shards[0].images)[0].made_of()
        if not origin.is_imported:
            require_same_protocol(job, origin, full)
        require_full_bits(job.fp_samples, full)
    if not origin.is_imported:
        origin.sampled_by(job.samples)
    return SampledRun(shards, origin)


def are_imported(samples: Path) -> bool:
    """Whether another program made the samples of a folder."""
    path = shard_path(samples, 0)
    origin = read_shard(path).origin if path.is_file() else None
    return isinstance(origin, dict) and origin.get("family") == IMPORTED


def require_checkpoint(job: EvaluateJob, origin: Origin) -> None:
    """Raise DataError or ConfigError unless the samples came from the job's checkpoint.

    Imported samples must have no checkpoint.
    """
    if origin.is_imported and job.checkpoint is not None:
        raise ConfigError(f"{job.samples}: are imported samples, which have no checkpoint; leave --checkpoint out")
    if origin.is_imported:
        return
    if job.checkpoint is None:
        raise ConfigError(f"{job.samples}: were sampled from a checkpoint; give it with --checkpoint FOLDER")
    read_config(job.checkpoint)
    if origin.checkpoint_sha256 != (digest := checkpoint_sha256(job.checkpoint)):
        raise DataError(
            f"{job.samples}: was sampled from the checkpoint {origin.checkpoint_sha256[:SHOWN]}…, {job.checkpoint} is"
            f" {digest[:SHOWN]}…; give the checkpoint it was sampled from, or sample again"
        )


def require_same_protocol(job: EvaluateJob, run: Origin, full: Origin) -> None:
    """Raise DataError unless the full-precision samples have the protocol, prompts and weights of the run."""
    ends = f"sample full precision with the protocol of {job.samples}"
    if (differing := difference(run.protocol, full.protocol)) is not None:
        raise DataError(f"{job.samples} and full precision ({job.fp_samples}) were made with {differing}; {ends}")
    pairs = {"prompts": (run.prompts, full.prompts), "text_sha256": (run.text_sha256, full.text_sha256)}
    pairs["weights_sha256"] = run.model.get("weights_sha256"), full.model.get("weights_sha256")
    for fact, (run_value, full_value) in pairs.items():
        if run_value != full_value and (fact != "weights_sha256" or None not in (run_value, full_value)):
            raise DataError(
                f"{job.samples} and full precision ({job.fp_samples}) have {fact} {run_value} and {full_value}; {ends}"
            )


def require_full_bits(fp_samples: Path, full: Origin) -> None:
    """Raise DataError unless a model with 16 bits made the full-precision samples."""
    bits = [full.model.get(name) for name in ("weight_bits", "activation_bits")]
    if any(width not in (16, None) for width in bits):
        raise DataError(
            f"{fp_samples}: was sampled from {full.model.get('method')} w{bits[0]}a{bits[1]}, full precision is"
            " w16a16; sample a checkpoint of --method fp --bits w16a16"
        )


def require_prompts(job: EvaluateJob, run: SampledRun, prompts: Sequence[tuple[str, int]]) -> None:
    """Raise DataError unless the clips of a run are exactly those of these (prompt, number), in this order."""
    stated = {"count": len(prompts), "sha256": sha256_json([list(pair) for pair in prompts])}
    if run.origin.prompts != stated:
        sampled = run.origin.prompts or {"count": 0, "sha256": "none"}
        raise DataError(
            f"{job.samples}: shows {sampled['count']} clips of prompts {sampled['sha256'][:SHOWN]}…, expected are"
            f" {stated['count']} of {str(stated['sha256'])[:SHOWN]}…; give the suite and the clips of each prompt"
            " that it was sampled with"
        )


def sampling_failure(samples: Path, images: int | None) -> Failure | None:
    """The first failure that the lists of a run's shards hold; None without a failure."""
    return next((shard.failure for shard in listed_shards(samples, images=images) if shard.failure), None)


def write_error(out: Path, failure: Failure, *, of: str = "") -> None:
    """Write a metrics.json that holds a failure and no numbers; tables show the reason.

    If it was another run that failed, `of` names it, for example "full precision".
    """
    text = f"{of}: {failure.text}" if of else failure.text
    status = Status.MISSING if of else Status(failure.kind)
    write_resamples(out.parent, Resamples({}, "none"))
    write_record(out, without_numbers(status, text))
    say(text)
