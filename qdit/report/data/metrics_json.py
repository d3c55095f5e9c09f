"""Read the metrics.json of a run as a row. A run without metrics gives a row with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.errors import DataError
from qdit.core.intervals import FILE as RESAMPLES
from qdit.core.intervals import Resamples, centred, interval, read_resamples
from qdit.core.metrics import METRICS
from qdit.core.metrics_record import FILE, IDENTITY, MetricsRecord, Refused, Status, mismatch, read_record
from qdit.core.run import Run

Row = dict[str, Any]


def read_run(results: Path, key: Run, profile: Mapping[str, Any] | None = None) -> Row:
    """Read a run as a row: what was run, its metrics, sizes and provenance.

    `state` is a Status. `status` is the text in tables: "ok", or "missing: <why>", "failed: <why>" and so on. If it is
    not "ok", the metrics are None. With `profile`, a run is refused if its setting differs from the setting in the
    profile. Cells that are neither numbers nor None are texts, so that a row can be written to CSV unchanged.
    """
    row: Row = {name: getattr(key, name) for name in IDENTITY}
    path = key.folder(results) / FILE
    try:
        record = read_record(path)
        if record.status != Status.OK:
            return row | with_status(record.status, str(record.error))
        _require(record, key, profile)
    except FileNotFoundError:
        return row | with_status(Status.MISSING, f"no {FILE}")
    except Refused as problem:
        return row | with_status(Status.REFUSED, str(problem))
    except DataError as problem:
        return row | with_status(Status.MISSING, str(problem))
    return row | _flatten(record) | {"resamples": resamples_of(record, path.parent)} | with_status(Status.OK)


def with_status(status: Status, why: str = "") -> Row:
    """Return the cells `state` and `status`. If the reason begins with the status word, it is not repeated."""
    if not why:
        return {"state": status, "status": status.value if status in (Status.OK, Status.NOT_RUN) else f"{status}: "}
    return {"state": status, "status": why if why.startswith(status) else f"{status}: {why}"}


def read_folder(folder: Path) -> Row:
    """Read the run in a folder as a row, as `read_run` does. Setting, method and bits come from its metrics.json.

    Raises DataError if there is no metrics.json, or if it does not name its run.
    """
    path = folder / FILE
    try:
        record = read_record(path)
        why = str(record.error)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path or run the step that makes it") from None
    except DataError as problem:
        record, why = MetricsRecord(status=Status.MISSING), str(problem)
    if record.status != Status.OK:
        raise DataError(f"{path}: holds no metrics of a run ({' '.join(why.split())}); evaluate it again")
    row: Row = {name: record.run[name] for name in IDENTITY} | {"key": record.of}
    return row | _flatten(record) | {"resamples": resamples_of(record, folder)} | with_status(Status.OK)


def resamples_of(record: MetricsRecord, folder: Path) -> Resamples | None:
    """Read the resampled values beside a metrics.json. DataError if their intervals differ from those in metrics.json.

    The file has the same name in every folder, so the file of another run can lie there.
    """
    resamples = read_resamples(folder)
    if resamples is None:
        return None
    for name, limits in record.intervals.items():
        value, values = record.metrics.get(name), resamples.values.get(name)
        if value is None or values is None:
            continue
        if not np.allclose(interval(centred(name, value, values)), limits, rtol=1e-6, atol=1e-12):
            raise DataError(
                f"{folder / RESAMPLES}: is of another run, it gives {name} another interval than {FILE}; run `qdit"
                " evaluate` again, each run in a folder of its own"
            )
    return resamples


def _require(record: MetricsRecord, key: Run, profile: Mapping[str, Any] | None) -> None:
    """Check a record: DataError if it belongs to another run, Refused if its protocol is not the profile's."""
    for name in IDENTITY:
        if record.run.get(name) != getattr(key, name):
            raise DataError(f"metrics.json is of another run ({name} {record.run.get(name)!r})")
    if record.replicate != key.replicate:
        raise DataError(f"metrics.json is of another run (replicate {record.replicate})")
    if record.mode != key.mode:
        raise DataError(f"metrics.json is of another run (mode {record.mode!r})")
    if profile is not None and (other := mismatch(record, profile["settings"][key.setting], profile["seed"])):
        raise Refused(other)


def _flatten(record: MetricsRecord) -> Row:
    """Every column that a metrics.json fills."""
    sections = {"metrics": record.metrics, "size": record.size}
    row: Row = {
        metric.name: sections[metric.json_path[0]][metric.json_path[1]]
        for metric in METRICS.values()
        if metric.json_path[1] in sections[metric.json_path[0]] and metric.of != "row"
    }
    row |= {f"latent_{name}": value for name, value in (record.difference or {}).items()}
    row |= {"method": record.run.get("method"), "options": record.run["options"]}
    row["ssim_window"] = (record.paired or {}).get("ssim_window")
    for name, (low, high) in record.intervals.items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row | _provenance(record)


def _provenance(record: MetricsRecord) -> Row:
    """Protocol, inputs, code and versions, flat."""
    protocol, inputs = record.protocol, record.inputs
    reference = {} if record.is_of_clips else protocol["reference"]  # scores of clips need nothing but their prompts
    evaluator = protocol["evaluator"]
    row: Row = {name: getattr(record, name) for name in ("protocol_sha256", "mode", "backend")}
    row |= {name: protocol.get(name) for name in ("model", "sampler", "images", "chunk", "seed", "uint8", "decoder")}
    row |= {name: protocol.get(name) for name in ("steps", "cfg_scale")}  # imported samples have none
    if record.is_of_clips:
        row |= {"prompts": protocol["prompts"].get("count"), "clip_flops": protocol.get("clip_flops")}
    row |= {"reference": reference.get("name"), "reference_sha256": reference.get("sha256")}
    row |= {"evaluator": evaluator.get("name"), "evaluator_sha256": evaluator.get("sha256")}
    row |= {name: inputs.get(name) for name in ("weights_sha256", "checkpoint_sha256")}
    row |= {f"code_{name}": record.code.get(name) for name in ("quantize", "sample", "evaluate")}
    row["calibration_sha256"] = _pairs(inputs["calibration_sha256"])
    row["allocation_sha256"] = record.run.get("allocation_sha256")
    row["packages"] = _pairs(record.packages)
    return row


def _pairs(values: Mapping[str, Any]) -> str:
    """`{"b": 2, "a": 1}` → `a=1 b=2`."""
    return " ".join(f"{name}={values[name]}" for name in sorted(values))
