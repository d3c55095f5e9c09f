"""What a profile needs and whether it is there: files with size and sha256, packages, devices."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from qdit.cost import disk_bytes
from qdit.errors import CheckpointError
from qdit.fetch import NeededFile, check_whole, files_of
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


def examine(profile: Profile, results: Path) -> list[Finding]:
    """Every needed file (found and whole, or what is wrong with it), then devices and disk."""
    found = [look_at(file) for file in files_of(profile)]
    return [*found, *device(profile), *disk(profile, results)]


def look_at(file: NeededFile) -> Finding:
    """Whether a needed file is there and has the digest that the manifest beside it or the profile gives."""
    uses = "; ".join(file.uses)
    source = f"; {file.about}" if file.entry else ""
    try:
        if file.entry:
            check_whole(file.path, file.sha256)
        check_file(file.path)
    except CheckpointError as problem:
        return Finding(False, f"{problem}{source}  [{uses}]")
    return Finding(True, f"{file.path}  {file.path.stat().st_size / 1e6:.1f} MB  {uses}{source}")


def device(profile: Profile) -> list[Finding]:
    """Whether there is the device that the profile wants."""
    compute, found = profile.get("compute", {}), []
    if compute.get("device") == "cuda":
        count = torch.cuda.device_count()
        text = f"{count} GPUs for compute.device cuda" if count else "compute.device is cuda and there is no GPU"
        found.append(Finding(count > 0, text if count else f"{text}; run where there is one, or set it to cpu"))
    return found


def disk(profile: Profile, results: Path) -> list[Finding]:
    """Whether the disk of the results has room for what the default tables leave there."""
    if "files" not in profile:
        return []
    place = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.is_dir())
    free, needed = shutil.disk_usage(place).free, sum(disk_bytes(profile).values())
    text = f"{place}: {free / 1e9:.0f} GB are free, the tables need about {needed / 1e9:.0f} GB"
    return [Finding(free > needed, text if free > needed else f"{text}; make room or put results/ elsewhere")]


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
