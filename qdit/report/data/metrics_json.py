"""One run's metrics.json as a flat row; a run without one is a row that says why, never a gap."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import read_json
from qdit.core.intervals import read_replicates
from qdit.core.metric_names import DIMENSIONS, TOTALS

OK = "ok"
NOT_RUN = "not run"
"""Status of a measured row, and of one that the profile does not run; the others say why: "missing: <why>"."""

REASONS = ("missing", "failed", "unsupported")
"""First words of the other statuses; a run's own error keeps its word, everything else is missing."""

Row = dict[str, Any]

METRICS = ("fid", "sfid", "is", "precision", "recall", "class_accuracy", "fd_fp", "mse_fp")
OPTIONAL_METRICS = ("recall", "class_accuracy", "fd_fp", "mse_fp")
"""May be null: the paired metrics of full precision itself, and what an extractor does not offer."""

FLOW = "rectified flow"
"""Sampler of runs of clips, which have metrics of their own."""

CLIP_METRICS = (*DIMENSIONS, *TOTALS, "mfvd", "fd_fp", "mse_fp")
OPTIONAL_CLIP_METRICS = (*DIMENSIONS, *TOTALS, "mfvd", "fd_fp", "mse_fp")
"""A suite of one's own may have no prompt for a dimension, and then there are no totals; VBench has no features."""


@dataclass(frozen=True)
class RunKey:
    """What names a run: the parts of its folder."""

    setting: str
    form: str
    label: str
    weight_bits: int
    activation_bits: int
    scope: str
    mode: str = "simulate"

    @property
    def bits(self) -> str:
        """As in a path, `w4a8`."""
        return f"w{self.weight_bits}a{self.activation_bits}"

    def folder(self, results: Path) -> Path:
        """Folder of the run below the results of its profile."""
        mode = "" if self.mode == "simulate" else f"-{self.mode}"
        return results / "runs" / self.setting / self.form / self.label / f"{self.bits}-{self.scope}{mode}"


def parse_bits(bits: str) -> tuple[int, int]:
    """`w4a8` → (4, 8)."""
    found = re.fullmatch(r"w([1-9]\d*)a([1-9]\d*)", bits)
    if found is None:
        raise ConfigError(f"bits {bits!r} in a table: expected the form 'w4a8'; correct the profile")
    return int(found[1]), int(found[2])


def read_run(results: Path, key: RunKey) -> Row:
    """Row of a run: identity, metrics, sizes, and everything that identifies how they came about.

    `status` is "ok", or "missing: <why>", "failed: <why>" or "unsupported: <why>"; then the metrics are None. Extra
    columns are strings, so that a row can be written as CSV as it is.
    """
    row: Row = {
        "setting": key.setting,
        "form": key.form,
        "label": key.label,
        "weight_bits": key.weight_bits,
        "activation_bits": key.activation_bits,
        "scope": key.scope,
    }
    path = key.folder(results) / "metrics.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return row | _flatten(record, key) | {"replicates": read_replicates(path.parent), "status": OK}
    except FileNotFoundError:
        why = "no metrics.json"
    except (OSError, ValueError):
        why = "metrics.json is not readable JSON"
    except _IncompleteError as problem:
        why = str(problem)
    named = why.startswith(REASONS)
    return row | {"status": why if named else f"missing: {why}"}


def read_folder(folder: Path) -> Row:
    """Row of a run by its folder, wherever that is: as `read_run`, with the identity that metrics.json itself gives.

    Raises DataError where there is no metrics.json or it does not say which run it is of.
    """
    path = folder / "metrics.json"
    record = read_json(path)
    try:
        run = record["run"]
        names = ("setting", "form", "label", "weight_bits", "activation_bits", "scope")
        key = RunKey(**{name: run[name] for name in names}, mode=record["mode"])
        row: Row = {name: getattr(key, name) for name in names}
        return row | _flatten(record, key) | {"replicates": read_replicates(folder), "status": OK, "key": key}
    except (KeyError, TypeError, _IncompleteError) as problem:
        why = str(record.get("error") or problem) if isinstance(record, Mapping) else "it is no object"
        raise DataError(f"{path}: holds no metrics of a run ({' '.join(why.split())}); evaluate it again") from None


class _IncompleteError(Exception):
    """A metrics.json that cannot fill its row."""


def _flatten(record: Any, key: RunKey) -> Row:
    """Every column that a metrics.json fills."""
    if not isinstance(record, Mapping):
        raise _IncompleteError("metrics.json is not an object")
    if isinstance(record.get("error"), str):
        raise _IncompleteError(" ".join(record["error"].split()))
    run = _part(record, "run")
    for name in ("setting", "form", "label", "weight_bits", "activation_bits", "scope"):
        if run.get(name) != getattr(key, name):
            raise _IncompleteError(f"metrics.json is of another run ({name} {run.get(name)!r})")
    if record.get("mode") != key.mode:
        raise _IncompleteError(f"metrics.json is of another run (mode {record.get('mode')!r})")
    metrics, size = _part(record, "metrics"), _part(record, "size")
    flow = _part(record, "protocol").get("sampler") == FLOW
    names, optional = (CLIP_METRICS, OPTIONAL_CLIP_METRICS) if flow else (METRICS, OPTIONAL_METRICS)
    row: Row = {name: _number(metrics, name, optional=name in optional) for name in names}
    row |= {"size_mb": _number(size, "paper_mb"), "size_actual_mb": _number(size, "actual_mb", optional=True)}
    row |= {f"latent_{name}": value for name, value in (record.get("difference") or {}).items()}
    row |= {"method": run.get("method"), "options": _part(run, "options")}
    row |= _intervals(record.get("intervals") or {})
    return row | _provenance(record, run)


def _intervals(found: Mapping[str, Any]) -> Row:
    """`fid_low` and `fid_high` and so on; nothing for a run that was evaluated without."""
    cells: Row = {}
    for name, limits in found.items():
        try:
            low, high = map(float, limits)
        except (TypeError, ValueError):
            raise _IncompleteError(f"the interval of {name} is {limits!r}") from None
        cells |= {f"{name}_low": low, f"{name}_high": high}
    return cells


def _provenance(record: Mapping[str, Any], run: Mapping[str, Any]) -> Row:
    """Protocol, inputs, code and versions, flat."""
    protocol, inputs, code = _part(record, "protocol"), _part(record, "inputs"), _part(record, "code")
    flow = protocol.get("sampler") == FLOW  # scores of clips are compared with nothing but their prompts
    reference, evaluator = {} if flow else _part(protocol, "reference"), _part(protocol, "evaluator")
    row: Row = {name: record.get(name) for name in ("protocol_sha256", "mode", "backend")}
    row |= {name: protocol.get(name) for name in ("model", "sampler", "images", "chunk", "seed", "uint8", "decoder")}
    row |= {name: _number(protocol, name) for name in ("steps", "cfg_scale")}
    if flow:
        row |= {"prompts": _part(protocol, "prompts").get("count"), "clip_flops": protocol.get("clip_flops")}
    row |= {"reference": reference.get("name"), "reference_sha256": reference.get("sha256")}
    row |= {"evaluator": evaluator.get("name"), "evaluator_sha256": evaluator.get("sha256")}
    row |= {name: inputs.get(name) for name in ("weights_sha256", "checkpoint_sha256")}
    row |= {f"code_{name}": code.get(name) for name in ("quantize", "sample", "evaluate")}
    row["calibration_sha256"] = _pairs(_part(inputs, "calibration_sha256"))
    row["allocation_sha256"] = run.get("allocation_sha256")
    row["packages"] = _pairs(_part(record, "packages"))
    return row


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    if not isinstance(part, Mapping):
        raise _IncompleteError(f"metrics.json lacks {name!r}")
    return part


def _number(values: Mapping[str, Any], name: str, *, optional: bool = False) -> float | int | None:
    value = values.get(name)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _IncompleteError(f"metrics.json has no number {name!r}")
    if not math.isfinite(value):
        raise _IncompleteError(f"{name} is {value}")
    return value


def _pairs(values: Mapping[str, Any]) -> str:
    """`{"b": 2, "a": 1}` → `a=1 b=2`."""
    return " ".join(f"{name}={values[name]}" for name in sorted(values))
