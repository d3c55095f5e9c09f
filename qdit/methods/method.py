"""The contract of a quantization method, the registry of all methods, and the step weights → quantized checkpoint."""

import dataclasses
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from qdit.core.digest import code_digest
from qdit.core.disk import require_room
from qdit.core.errors import ConfigError, Unsupported, did_you_mean
from qdit.core.failure import method_code
from qdit.core.files import sha256_file, sha256_json
from qdit.models.loading import load_model
from qdit.models.network import Network
from qdit.quant.checkpoint import Quantized, read_checkpoint, save_checkpoint
from qdit.sampling.calibration import NORMAL, CalibrationSet, load_calibration
from qdit.sampling.precision import torch_device

__all__ = ["FULL_PRECISION", "Method", "Quantized", "Scope", "find_method", "quantize_model", "registry"]

Scope = Literal["common", "own"]
SCOPES: tuple[Scope, ...] = ("common", "own")
FULL_PRECISION = 16
BITS = (*range(2, 9), FULL_PRECISION)


class Method(ABC):
    """One quantization method: a subclass in a file of its own in `baselines/` is all it takes to add one.

    `quantize` works on a copy, replaces sites only and never seeds a global generator; at 16 bits it leaves
    weights or activations as they are. It raises `Unsupported` for what it cannot do.
    """

    name: ClassVar[str]
    """Name in configurations and tables."""
    citation: ClassVar[str]
    """BibTeX of the paper, shown in the report."""
    calibration: ClassVar[tuple[str, ...]] = ()
    """Kinds of calibration data the method needs (`qdit.sampling.calibration.KINDS`)."""
    Options: ClassVar[type]
    """Frozen dataclass of the method's options."""
    base: ClassVar[str | None] = None
    """Method whose result this one only corrects: its checkpoint may be given instead of being made again."""

    @abstractmethod
    def quantize(
        self,
        model: Network,
        *,
        weight_bits: int,
        activation_bits: int,
        scope: Scope,
        calibration: Mapping[str, CalibrationSet],
        options: Any,
    ) -> Quantized:
        """Quantized copy of `model`."""

    def correct(self, model: Network, quantized: Quantized, calibration: Mapping[str, CalibrationSet]) -> Quantized:
        """What the method adds to the result of its base; `model` is the full-precision one."""
        raise Unsupported(f"{self.name}: does not build on the checkpoint of another method")


@cache
def registry() -> dict[str, Method]:
    """Every method by name: all `Method` subclasses of `baselines/*` and of `qdit.methods.q_dit`."""
    package = importlib.import_module("baselines")
    modules = [f"baselines.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    methods: dict[str, Method] = {}
    for module_name in [*sorted(modules), "qdit.methods.q_dit"]:
        module = importlib.import_module(module_name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module_name:
                if value.name in methods:
                    raise ConfigError(
                        f"{module_name}: a method named {value.name!r} exists already; choose another name"
                    )
                methods[value.name] = value()
    return methods


def find_method(name: str) -> Method:
    """Method of that name; an unknown name raises ConfigError with a suggestion."""
    methods = registry()
    if name not in methods:
        hint = did_you_mean(name, methods)
        raise ConfigError(f"method {name!r}: allowed are {', '.join(sorted(methods))}{hint}")
    return methods[name]


def parse_options(method: Method, given: Mapping[str, Any]) -> Any:
    """The method's options dataclass from plain JSON; unknown names and wrong types raise ConfigError."""
    fields = {field.name: field for field in dataclasses.fields(method.Options)}
    for key in given:
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise ConfigError(f"{method.name}: option {key!r}: allowed are {', '.join(fields) or 'none'}{hint}")
    try:
        return method.Options(**given)
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"{method.name}: options {dict(given)}: {problem}") from None


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
    """Quantized copy of a model by the named method; checks bits, scope, options and calibration first."""
    chosen = find_method(method)
    check_bits(weight_bits, activation_bits)
    if scope not in SCOPES:
        raise ConfigError(f"scope {scope!r}: allowed are {', '.join(SCOPES)}")
    calibration = calibration or {}
    if missing := [kind for kind in chosen.calibration if kind not in calibration]:
        raise ConfigError(f"{method}: needs calibration data of kind {', '.join(missing)}; run `qdit calibrate` first")
    parsed = parse_options(chosen, options or {})
    with method_code():
        quantized = chosen.quantize(
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
    """The step weights (+ calibration files) → quantized checkpoint in the folder `out`.

    All is computed on `device` (`cpu` or `cuda:N`). `base` is a checkpoint of the method's base, made with the same
    weights, data, bits, scope and options.
    """
    chosen = find_method(method)
    check_bits(weight_bits, activation_bits)
    model, place = load_model(weights), torch_device(device)
    require_room(out, sum(tensor.nbytes for tensor in model.state_dict().values()), "the tensors of a checkpoint")
    model = model.to(place)
    paths = calibration or {}
    loaded = {kind: load_calibration(path, model.config).to(place) for kind, path in paths.items()}
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
        "code": code_digest("qdit.methods.method", type(chosen).__module__),
        "weights_sha256": sha256_file(weights),
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
        made = load_base(base, chosen, record)
        made = replace(made, model=made.model.to(place))
        with method_code():
            quantized = chosen.correct(model, made, loaded)
    save_checkpoint(out, quantized, record)


def load_base(folder: Path, method: Method, record: Mapping[str, Any]) -> Quantized:
    """The checkpoint that a method corrects; ConfigError unless it was made the same way by the method's base."""
    model, correction, config = read_checkpoint(folder)
    wanted = {key: value for key, value in record.items() if key != "code"} | {"method": method.base}
    for key, value in wanted.items():
        found = config["record"].get(key)
        if found != value:
            raise ConfigError(f"{folder}: {key} is {found!r}, {method.name} needs {value!r}; give another checkpoint")
    return Quantized(model, correction, config["log"])
