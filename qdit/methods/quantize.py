"""The step that makes a quantized checkpoint from weights: it checks the inputs, quantizes by one method, and saves."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from qdit.core.devices import torch_device
from qdit.core.digest import code_digest
from qdit.core.disk import require_room
from qdit.core.errors import ConfigError
from qdit.core.failure import method_code
from qdit.core.files import sha256_file, sha256_json
from qdit.core.options import parse_options
from qdit.core.run import BITS
from qdit.core.streams import drawn_by_replicate
from qdit.methods.method import SCOPES, Method, Scope
from qdit.methods.registry import find_method
from qdit.methods.sources import STEP
from qdit.models.generic.network import DiffusersNetwork
from qdit.models.loading import load_model
from qdit.models.network import Network
from qdit.models.weights_files import weights_sha256
from qdit.quant.checkpoint import Quantized, read_checkpoint, save_checkpoint
from qdit.sampling.calibration import NORMAL, CalibrationSet
from qdit.sampling.calibration_set import load_calibration_of
from qdit.sampling.keyword_file import load_keywords_of


def options_of(method: Method, values: Mapping[str, Any]) -> Any:
    """Make the method's options dataclass from JSON; ConfigError for unknown names and wrong values."""
    return parse_options(method.name, method.Options, values)


def has_option(method: Method, name: str) -> bool:
    """Whether a method has an option of this name."""
    return name in {field.name for field in fields(method.Options)}


def check_bits(weight_bits: int, activation_bits: int) -> None:
    """Raise ConfigError for bit widths outside 2…8 and 16."""
    for what, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        if bits not in BITS:
            raise ConfigError(f"{what} {bits}: allowed are 2 to 8, or 16 for full precision")


def quantize_model(
    model: Network,
    method: str,
    *,
    weight_bits: int,
    activation_bits: int,
    scope: Scope = "common",
    calibration: Mapping[str, CalibrationSet] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Quantized:
    """Make a quantized copy of a model by the named method. First check bits, scope, options and calibration data."""
    method_object = find_method(method)
    check_bits(weight_bits, activation_bits)
    if scope not in SCOPES:
        raise ConfigError(f"scope {scope!r}: allowed are {', '.join(SCOPES)}")
    calibration = calibration or {}
    parsed = options_of(method_object, options or {})
    if missing := [kind for kind in method_object.calibration_for(parsed) if kind not in calibration]:
        raise ConfigError(f"{method}: needs calibration data of kind {', '.join(missing)}; run `qdit calibrate` first")
    with method_code():
        quantized = method_object.quantize(
            model,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            scope=scope,
            calibration=calibration,
            options=parsed,
        )
    quantized.model.eval()
    return quantized


def quantize_weights_file(
    weights: Path,
    out: Path,
    method: str,
    *,
    weight_bits: int,
    activation_bits: int,
    scope: Scope = "common",
    calibration: Mapping[str, Path] | None = None,
    options: Mapping[str, Any] | None = None,
    base: Path | None = None,
    device: str = "cpu",
) -> None:
    """Quantize a file of weights with calibration files, and write the checkpoint into the folder `out`.

    Everything is computed on `device` (`cpu` or `cuda:N`). `base` is a checkpoint of the method's base method. It must
    have the same weights, data, bits and scope. Options that both methods have must be equal.

    Inside the context `replicate_draws` the result is the checkpoint of a replicate. It names the replicate only if the
    method drew random numbers: otherwise, with the same data, the checkpoints of all replicates are equal byte by byte.
    """
    method_object = find_method(method)
    check_bits(weight_bits, activation_bits)
    parsed = options_of(method_object, options or {})  # before anything is loaded
    model, target = load_model(weights), torch_device(device)
    require_room(out, sum(tensor.nbytes for tensor in model.state_dict().values()), "the tensors of a checkpoint")
    model = model.to(target)
    paths = calibration or {}
    loaded = {kind: calibration_of(path, model, weights).to(target) for kind, path in paths.items()}
    for kind, data in loaded.items():
        if data.kind != kind and not {data.kind, kind} <= NORMAL.keys():
            raise ConfigError(f"{paths[kind]}: holds calibration data of kind {data.kind!r}, given as {kind!r}")
    allocated = (options or {}).get("allocation") is not None
    record = {
        "method": method,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "scope": scope,
        "options": {key: value for key, value in (options or {}).items() if key != "allocation"},
        "allocation_sha256": sha256_json((options or {}).get("allocation")) if allocated else None,
        "code": code_digest(STEP, type(method_object).__module__),
        "weights_sha256": weights_sha256(weights),
        "calibration_sha256": {kind: sha256_file(path) for kind, path in paths.items()},
    }
    if base is None:
        quantized = quantize_model(
            model,
            method,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            scope=scope,
            calibration=loaded,
            options=options,
        )
    else:
        uncorrected = load_base(base, method_object, record)
        uncorrected = replace(uncorrected, model=uncorrected.model.to(target))
        with method_code():
            quantized = method_object.correct(model, uncorrected, loaded, parsed)
    save_checkpoint(out, quantized, record | drawn_by_replicate())


def calibration_of(path: Path, model: Network, weights: Path) -> CalibrationSet:
    """Read a calibration file for a model of these weights. Raises the errors of `load_calibration_of`."""
    if isinstance(model, DiffusersNetwork):
        return load_keywords_of(path, weights)
    return load_calibration_of(path, model.config, weights)


def load_base(folder: Path, method: Method, record: Mapping[str, Any]) -> Quantized:
    """Load the checkpoint that a method corrects; ConfigError unless its base method made it from the same inputs."""
    model, correction, config = read_checkpoint(folder)
    wanted = {key: value for key, value in record.items() if key != "code"} | {"method": method.base}
    base = find_method(str(method.base))
    wanted["options"] = {key: value for key, value in record["options"].items() if has_option(base, key)}
    data = record["calibration_sha256"]
    wanted["calibration_sha256"] = {kind: digest for kind, digest in data.items() if kind in base.calibration}
    for key, value in wanted.items():
        recorded = config["record"].get(key)
        if recorded != value:
            raise ConfigError(
                f"{folder}: {key} is {recorded!r}, {method.name} needs {value!r}; give another checkpoint"
            )
    return Quantized(model, correction, config["log"])
