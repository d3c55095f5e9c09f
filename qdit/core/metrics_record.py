"""The record of a run (metrics.json): metrics, protocol, and digests of files and code.

`MetricsRecord.from_json` checks everything that readers of the file need. Steps write the file with `to_json`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from qdit.core.errors import DataError
from qdit.core.files import sha256_json, write_json
from qdit.core.metrics import METRICS, of_clips, of_images
from qdit.core.run import IMPORTED, RECTIFIED_FLOW, Run, recorded_sampler

FILE = "metrics.json"
FLOW = recorded_sampler(RECTIFIED_FLOW)
"""Sampler of runs of clips in a protocol; such runs have metrics of their own."""
IDENTITY = ("setting", "form", "label", "weight_bits", "activation_bits", "scope")
"""What of `run` says which run it is."""
RANDOM_LABELS = "random"
"""Value of a setting or a record without the field `labels`."""
UNKNOWN_OF_IMPORTED = ("weight_bits", "activation_bits", "scope")
"""What a run of imported samples does not say of itself."""


class Status(StrEnum):
    """Status of a run. metrics.json holds one of the first four; the other two are for refused and missing files."""

    OK = "ok"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    MISSING = "missing"
    REFUSED = "refused"
    NOT_RUN = "not run"

    @classmethod
    def said_by(cls, error: str) -> "Status":
        """The status that the first word of an error text says, for old files without a field `status`."""
        return next((status for status in (cls.FAILED, cls.UNSUPPORTED) if error.startswith(status)), cls.MISSING)


class Refused(DataError):
    """Error for a complete metrics.json that contradicts itself or the profile."""


@dataclass(frozen=True)
class MetricsRecord:
    """The content of a metrics.json, one attribute for each field.

    `status` is OK for a run with numbers. Otherwise `error` gives the reason in one line, and all other fields are
    empty. `metrics` maps names to values; null means that this run has no such value. `intervals` are (low, high) at 95
    %. `size` is in MB. `paired` has the window of SSIM and the weights of LPIPS. `difference` compares integer latents
    with simulated ones. `real_clips` and `pixel_noise` are the scores that mini-VBench scales to 1 and 0. `vbench`
    holds what VBench scored.
    """

    status: Status = Status.OK
    error: str | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    protocol_sha256: str | None = None
    mode: str | None = None
    backend: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    size: Mapping[str, float | None] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bootstrap: Mapping[str, Any] | None = None
    paired: Mapping[str, Any] | None = None
    difference: Mapping[str, float] | None = None
    real_clips: Mapping[str, float] | None = None
    pixel_noise: Mapping[str, float] | None = None
    vbench: Mapping[str, Any] | None = None

    @property
    def is_of_clips(self) -> bool:
        """Whether the samples are clips."""
        return is_of_clips(self.protocol)

    @property
    def is_imported(self) -> bool:
        """Whether another program made the samples."""
        return self.mode == IMPORTED

    @property
    def of(self) -> Run:
        """The identity of the run that this record is about: setting, form, label, bits, scope, mode and replicate."""
        if self.is_imported and self.run.get("weight_bits") is None:
            return Run(self.run["setting"], self.run["form"], self.run["label"], IMPORTED, IMPORTED, IMPORTED)
        bits = f"w{self.run['weight_bits']}a{self.run['activation_bits']}"
        names = (self.run["setting"], self.run["form"], self.run["label"])
        return Run(*names, bits, self.run["scope"], str(self.mode), self.replicate)

    @property
    def replicate(self) -> int:
        """Number of the replicate. Records of replicate 0 do not hold it."""
        return int(self.run.get("replicate", 0))

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, without the fields that this run does not have."""
        if self.status != Status.OK:
            return {"status": self.status.value, "error": self.error}
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in parts.items() if value is not None} | {"status": self.status.value}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Check the content of a metrics.json and make a record of it.

        DataError with a message of one line if it is incomplete; `Refused` if it contradicts itself.
        """
        record = _object(content, FILE)
        error = record.get("error")
        status = _status(record.get("status"), error)
        if status != Status.OK:
            return cls(status=status, error=" ".join(error.split()) if isinstance(error, str) else "it says no reason")
        protocol, difference = _part(record, "protocol"), record.get("difference")
        sections = {section: _part(record, section) for section in ("metrics", "size")}
        imported = record.get("mode") == IMPORTED
        numbers = _numbers(sections, clips=is_of_clips(protocol), imported=imported)
        checked = cls(
            run=_part(record, "run"),
            protocol=protocol,
            protocol_sha256=record.get("protocol_sha256"),
            mode=record.get("mode"),
            backend=record.get("backend"),
            inputs=_part(record, "inputs"),
            code=_part(record, "code"),
            packages=_part(record, "packages"),
            size=numbers["size"],
            metrics=numbers["metrics"],
            intervals=_intervals(record.get("intervals")),
            bootstrap=record.get("bootstrap"),
            paired=record.get("paired"),
            difference=None if difference is None else _finite(_object(difference, "difference")),
            real_clips=record.get("real_clips"),
            pixel_noise=record.get("pixel_noise"),
            vbench=record.get("vbench"),
        )
        _identity(checked)
        _protocol(checked)
        _trustworthy(checked)
        return checked


def is_of_clips(protocol: Mapping[str, Any]) -> bool:
    """Whether a protocol describes clips: those of our clip sampler, or imported samples that have prompts."""
    return protocol.get("sampler") == FLOW or (protocol.get("sampler") == IMPORTED and "prompts" in protocol)


def without_numbers(status: Status, error: str) -> MetricsRecord:
    """The record of a run that has no numbers: its status and the reason."""
    return MetricsRecord(status=status, error=error)


def read_record(path: Path) -> MetricsRecord:
    """Read and check the metrics.json of a run.

    DataError with a message of one line that does not name the path; FileNotFoundError without a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError):
        raise DataError("metrics.json is not readable JSON") from None
    return MetricsRecord.from_json(content)


def write_record(path: Path, record: MetricsRecord) -> None:
    """Write a metrics.json completely or not at all."""
    write_json(path, record.to_json())


def mismatch(record: MetricsRecord, setting: Mapping[str, Any], seed: int) -> str:
    """One line that says how a run differs from the setting of its profile; an empty text if it does not differ.

    Imported samples do not say how they were made, so only their model is compared.
    """
    if record.is_imported:
        setting = {"model": setting["model"]} if "model" in setting else {}
        differs = any(record.protocol.get(name) != value for name, value in setting.items())
        return f"imported for model {record.protocol.get('model')}; evaluate it again" if differs else ""
    wanted = {name: setting[name] for name in ("model", "sampler", "steps", "cfg_scale", "shift") if name in setting}
    wanted |= {"sampler": recorded_sampler(str(setting.get("sampler", ""))), "seed": seed}
    wanted["labels"] = setting.get("labels", RANDOM_LABELS)
    recorded = {"labels": RANDOM_LABELS} | {name: record.protocol[name] for name in wanted if name in record.protocol}
    other = [
        f"{name} {recorded.get(name)} instead of {wanted[name]}"
        for name in wanted
        if recorded.get(name) != wanted[name]
    ]
    return f"made with {', '.join(other)}, which the profile says; sample it again" if other else ""


def _status(value: Any, error: Any) -> Status:
    if value is None:
        return Status.said_by(error) if isinstance(error, str) else Status.OK
    known = (Status.OK, Status.FAILED, Status.UNSUPPORTED, Status.MISSING)
    if value not in known:
        raise DataError(f"metrics.json has the status {value!r}; known are {', '.join(known)}")
    if value == Status.OK and error is not None:
        raise DataError("metrics.json has the status 'ok' and an error; evaluate the run again")
    return Status(value)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{name} is not an object")
    return value


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = record.get(name)
    if not isinstance(section, Mapping):
        raise DataError(f"metrics.json lacks {name!r}")
    return section


def number(values: Mapping[str, Any], name: str, *, optional: bool = False) -> float | int | None:
    """The number with this name in a record; DataError unless it is finite. None is allowed only if `optional`."""
    value = values.get(name)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"metrics.json has no number {name!r}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise DataError(f"{name} is {value if isinstance(value, float) else 'too large'}")
    return value


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that must all be finite numbers."""
    return {name: number(values, name) for name in values}


def _numbers(
    sections: Mapping[str, Mapping[str, Any]], *, clips: bool, imported: bool
) -> dict[str, dict[str, float | None]]:
    """The sections of numbers, every metric of the registry that such a run has checked."""
    checked: dict[str, dict[str, float | None]] = {"metrics": {}, "size": {}}
    for metric in METRICS.values():
        section, key = metric.json_path
        if metric.of == "checkpoint" or (of_clips if clips else of_images)(metric):
            optional = metric.optional or (imported and metric.of == "checkpoint")
            checked[section][key] = number(sections[section], key, optional=optional)
    return checked


def _intervals(record: Any) -> dict[str, tuple[float, float]]:
    """Metric → (low, high), both finite and in order."""
    limits: dict[str, tuple[float, float]] = {}
    for name, pair in _object({} if record is None else record, "intervals").items():
        whole = isinstance(pair, list | tuple) and len(pair) == 2
        if not whole or any(isinstance(end, bool) or not isinstance(end, int | float) for end in pair):
            raise DataError(f"the interval of {name} is {pair!r}")
        low, high = map(float, pair)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise DataError(f"the interval of {name} is {pair!r}")
        limits[name] = (low, high)
    return limits


def _identity(record: MetricsRecord) -> None:
    """DataError unless it says which run it is of."""
    for name in IDENTITY:
        if record.is_imported and name in UNKNOWN_OF_IMPORTED and record.run.get(name) is None:
            continue
        kind = int if name.endswith("bits") else str
        if not isinstance(record.run.get(name), kind) or isinstance(record.run.get(name), bool):
            raise DataError(f"metrics.json does not say which run it is of ({name} {record.run.get(name)!r})")
    if not isinstance(record.mode, str):
        raise DataError(f"metrics.json does not say which run it is of (mode {record.mode!r})")
    replicate = record.run.get("replicate", 0)
    if not isinstance(replicate, int) or isinstance(replicate, bool) or replicate < 0:
        raise DataError(f"metrics.json does not say which run it is of (replicate {replicate!r})")
    _part(record.run, "options")
    _part(record.inputs, "calibration_sha256")


def _protocol(record: MetricsRecord) -> None:
    """DataError unless the protocol says how samples were made and judged."""
    for name in () if record.is_imported else ("steps", "cfg_scale"):
        number(record.protocol, name)
    _part(record.protocol, "evaluator")
    _part(record.protocol, "prompts" if record.is_of_clips else "reference")
    try:
        digest = sha256_json(record.protocol)
    except ValueError:
        raise DataError("the protocol holds a number that is not finite") from None
    if digest != record.protocol_sha256:
        recorded_digest = f"{record.protocol_sha256}"[:12]
        raise Refused(f"protocol_sha256 is {recorded_digest}…, its protocol has {digest[:12]}…; evaluate it again")


def _trustworthy(record: MetricsRecord) -> None:
    """`Refused` if a number lies outside of its own interval, beyond rounding."""
    for name, (low, high) in record.intervals.items():
        value = record.metrics.get(name)
        rounding = 1e-9 * max(abs(low), abs(high), 1.0) if low < high else 1e-6 * max(abs(low), 1e-6)
        if value is not None and not low - rounding <= value <= high + rounding:
            raise Refused(f"{name} is {value:.6g}, outside of its interval {low:.6g} to {high:.6g}; evaluate it again")
