"""Outlier study: how weights, activations and the damage of quantization change while a small DiT is trained.

The study reads the snapshots that `qdit train dit` keeps (the moving average of the weights). Of each linear of a block
it records two values of the weight and of the input:

- **kurtosis**: the fourth central moment divided by the squared variance; 3 for a Gaussian, more with outliers;
- **spread**: take the largest absolute value of each input channel; then divide the maximum of these values by their
  median.

The inputs come from noisy images of the model's own sampling trajectories, at all steps. The damage is measured by
MSE-FP, PSNR-FP and FD-FP, as in the tables. They compare images of the quantized and of the full-precision model with
the same noise.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdit.core.digest import code_digest
from qdit.core.errors import DataError, did_you_mean
from qdit.core.files import read_json, sha256_file, write_json
from qdit.core.pixels import to_uint8
from qdit.core.provenance import commit, machine, packages
from qdit.methods.quantize import quantize_model
from qdit.metrics.analysis.activations import spread
from qdit.metrics.features import Extractor
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.paired import compare_images
from qdit.metrics.statistics import moments
from qdit.mini.training.quality import draw
from qdit.mini.training.shipping import averaged_model
from qdit.models.dit import DiT
from qdit.models.roles import Site, linear_of
from qdit.quant.layers import layers
from qdit.quant.observe import observe_inputs
from qdit.quant.salience import weight_salience
from qdit.quant.sites import prepare_inference
from qdit.sampling.calibration import CalibrationSet, collect
from qdit.sampling.protocol import Protocol

LEARNED = {"iterations": 500, "batch": 16, "rate": 0.01}
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rtn": ("trajectory", {}),
    "q-dit": ("trajectory", {"group_size": 16}),
    "ptq4dit": ("per-step", LEARNED),
}
"""Method → kind of its calibration data, and its options: those of the mini profile."""
OBSERVED_BATCH = 16
"""Noisy images of a forward pass whose inputs are recorded."""


@dataclass(frozen=True)
class Plan:
    """What is measured at each snapshot: methods and bits, numbers of images, DDIM steps and calibration samples."""

    methods: tuple[str, ...] = ("rtn", "q-dit")
    bits: tuple[str, ...] = ("w4a8", "w4a4")
    images: int = 128
    steps: int = 20
    calibration: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise DataError(f"method {name!r}: allowed are {', '.join(METHODS)}{did_you_mean(name, METHODS)}")

    @property
    def protocol(self) -> Protocol:
        """Protocol by which all images are sampled: DDIM without guidance."""
        return Protocol("ddim", self.steps, 1.0, seed=self.seed)


def kurtosis(values: Tensor) -> float:
    """Kurtosis over all values, in float64: fourth central moment divided by squared variance.

    NaN if all values are equal.
    """
    deviations = values.double().flatten()
    deviations = deviations - deviations.mean()
    variance = deviations.square().mean()
    return float(deviations.pow(4).mean() / variance.square())


class Inputs:
    """Collects the inputs of one site over batches, and gives their kurtosis and spread."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        """Add one batch of inputs (…, C)."""
        self.parts.append(x.float().flatten(0, -2))

    def values(self) -> dict[str, float]:
        """Kurtosis and spread of all inputs that were added."""
        rows = torch.cat(self.parts)
        return {"kurtosis": kurtosis(rows), "spread": spread(weight_salience(rows))}


def of_weights(model: DiT) -> dict[str, dict[str, list[float]]]:
    """Role → `kurtosis` and `spread` → values of the weights with this role, one value for each block."""

    def measured(site: Site) -> dict[str, float]:
        weight = linear_of(model, site).weight.detach()
        return {"kurtosis": kurtosis(weight), "spread": spread(weight_salience(weight))}

    return by_role(layers(model, "common"), measured)


def of_activations(model: DiT, data: CalibrationSet) -> dict[str, dict[str, list[float]]]:
    """Role → `kurtosis` and `spread` → values of the inputs of sites with this role, one value for each block.

    The inputs come from calibration data.
    """
    sites = layers(model, "common")
    inputs = {site.name: Inputs() for site in sites}
    observe_inputs(model, sites, data.batches(OBSERVED_BATCH), lambda site, x: inputs[site.name].update(x))
    return by_role(sites, lambda site: inputs[site.name].values())


def by_role(sites: Sequence[Site], measured: Callable[[Site], dict[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Measure each site, and sort the values: role → name of the value → one value for each block."""
    found: dict[str, dict[str, list[float]]] = {}
    for site in sites:
        for name, value in measured(site).items():
            found.setdefault(site.role, {}).setdefault(name, []).append(value)
    return found


def sampled(model: DiT, plan: Plan) -> np.ndarray:
    """Sample the images of the plan, uint8 (N, 1, L, L). The model is prepared for inference, so change it no more."""
    return to_uint8(draw(prepare_inference(model), plan.protocol, plan.images).images).numpy()


def damage(model: DiT, plan: Plan, data: Mapping[str, CalibrationSet], extractor: Extractor) -> list[dict[str, Any]]:
    """Quantize with each method of the plan at each of its bits, and measure MSE-FP, PSNR-FP and FD-FP of each."""
    full = sampled(deepcopy(model), plan)
    moments_of_full = moments(extractor(full).pool)
    rows = []
    for bits in plan.bits:
        for method in plan.methods:
            kind, options = METHODS[method]
            weight_bits, activation_bits = (int(digits) for digits in bits[1:].split("a"))
            quantized = quantize_model(
                model,
                method,
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                calibration={kind: data[kind]},
                options=options,
            )
            assert isinstance(quantized.model, DiT)
            images = sampled(quantized.model, plan)
            compared = compare_images(images, full)
            distance = frechet_distance(moments(extractor(images).pool), moments_of_full)
            paired = {"mse_fp": float(np.mean(compared.errors)), "psnr_fp": float(np.mean(compared.psnr))}
            rows.append({"method": method, "bits": bits, "fd_fp": distance, **paired})
    return rows


def study_snapshot(path: Path, plan: Plan, extractor: Extractor) -> dict[str, Any]:
    """Measure one snapshot: weights, inputs and damage. CheckpointError if the file is not a snapshot."""
    model, metadata = averaged_model(path)
    kinds = {"trajectory", *(METHODS[method][0] for method in plan.methods)}
    data = {kind: collect(model, kind, plan.protocol, samples=plan.calibration) for kind in sorted(kinds)}
    return {
        "file": path.name,
        "sha256": sha256_file(path),
        "iteration": metadata["iteration"],
        "weights": of_weights(model),
        "activations": of_activations(model, data["trajectory"]),
        "damage": damage(model, plan, data, extractor),
    }


def snapshot_files(path: Path, iterations: Collection[int] = ()) -> list[Path]:
    """Files of the snapshots in a folder, in the order of the training. `iterations` selects some of them.

    `path` may also be one file. DataError if there are no snapshots, and for an iteration without one.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    known = {int(file.stem): file for file in files if file.stem.isdecimal()}
    selected_files = files if not iterations else [file for number, file in known.items() if number in iterations]
    if selected_files and (lacking := sorted(set(iterations) - known.keys())):
        raise DataError(
            f"{path}: found no snapshot of iteration {lacking[0]}; it has {', '.join(map(str, known))}; take of these"
        )
    if not selected_files:
        raise DataError(
            f"{path}: found no snapshots{' of these iterations' if files else ''}; give the folder `snapshots` of a"
            " training (qdit train dit, dit-digits or dit-fashion)"
        )
    return selected_files


def is_study(content: Any) -> bool:
    """Whether the content of a JSON file is a study that `study_snapshots` wrote."""
    entries = content.get("snapshots") if isinstance(content, dict) else None
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and type(entry.get("iteration")) is int
        for entry in entries
    )


def study_snapshots(paths: Sequence[Path], plan: Plan, extractor: Extractor, out: Path, *, name: str) -> dict[str, Any]:
    """Measure snapshots of the model `name`, and write the JSON file again after each snapshot.

    Snapshots that the file already holds are not measured again if plan and extractor are the same. So a stopped study
    continues, and later snapshots can be added. DataError if the file holds something else than such a study.
    """
    fixed = {"model": name, "plan": {**asdict(plan), "methods": list(plan.methods), "bits": list(plan.bits)}}
    fixed["extractor"] = {"name": extractor.name, "sha256": extractor.digest}
    before = read_json(out) if out.exists() else {"snapshots": []}
    if not is_study(before):
        raise DataError(f"{out}: holds no study of outliers, which this command would replace; give another --out")
    is_same = all(before.get(key) == value for key, value in fixed.items())
    known = {entry["sha256"]: entry for entry in before.get("snapshots", [])} if is_same else {}
    study: dict[str, Any] = {}
    for path in paths:
        if (digest := sha256_file(path)) not in known:
            known[digest] = study_snapshot(path, plan, extractor)
        study = {
            **fixed,
            "snapshots": sorted(known.values(), key=lambda entry: entry["iteration"]),
            "code": code_digest("qdit.mini.outliers"),
            "commit": commit(),
            "machine": machine(),
            "packages": packages(),
        }
        write_json(out, study)
    return study
