"""What a profile needs and whether it is there: files with size and sha256, packages, devices."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from qdit.errors import CheckpointError
from qdit.kernels.dense import backend
from qdit.kernels.report import report
from qdit.models.manifest import check_file
from qdit.profile import Profile
from qdit.provenance import machine, packages


@dataclass(frozen=True)
class Finding:
    """One needed thing: `ok` or not, and one line about it."""

    ok: bool
    text: str


def needed_files(profile: Profile) -> Iterator[tuple[str, Path]]:
    """(what for, file) of every input of the profile's default plan."""
    for name, model in profile["models"].items():
        for form, path in model["forms"].items():
            yield f"weights of {name}, {form} form", Path(path)
    for name, path in profile["extractors"].items():
        yield f"weights of the extractor {name}", Path(path)


def examine(profile: Profile) -> list[Finding]:
    """Every needed file: found and whole (as the manifest beside it says), or what is wrong with it."""
    findings = []
    for what, path in needed_files(profile):
        try:
            check_file(path)
            findings.append(Finding(True, f"{path}  {path.stat().st_size / 1e6:.1f} MB  {what}"))
        except CheckpointError as problem:
            findings.append(Finding(False, f"{problem}  [{what}]"))
    return findings


def surroundings() -> dict[str, str]:
    """Machine, devices, packages and what quantized layers run on, as text."""
    here = machine()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": f"{here['processor']}, {here['cores']} cores",
        "GPU": ", ".join(gpus) or "none (none is needed)",
        "system": here["system"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages().items()),
        "backend": f"{backend()} (floating-point linears of the simulated mode)",
        **report(),
    }
