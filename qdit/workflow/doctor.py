"""What a profile needs and whether it is there: files with size and sha256, packages, devices."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.provenance import machine, packages
from qdit.kernels.dense import backend
from qdit.kernels.report import report
from qdit.methods.registry import load_registry, registry
from qdit.models.manifest import check_file
from qdit.models.text_encoder import require_packages
from qdit.workflow.cost import disk_bytes, scored_by_vbench
from qdit.workflow.fetch import NeededFile, check_whole, files_of
from qdit.workflow.profile import Profile, all_runs
from qdit.workflow.vbench_env import is_installed, python_of


@dataclass(frozen=True)
class Finding:
    """One needed thing: `ok` or not, and one line about it."""

    ok: bool
    text: str


def examine(profile: Profile, results: Path) -> list[Finding]:
    """Every needed file (found and whole, or what is wrong with it), then packages, devices and disk."""
    found = [look_at(file) for file in files_of(profile)]
    packages_of = [*text_packages(profile), *vbench_environment(profile, results)]
    return [*found, *method_files(), *packages_of, *device(profile), *disk(profile, results)]


def method_files() -> list[Finding]:
    """Whether every file of methods can be read and imported."""
    broken = load_registry().broken
    whole = Finding(True, f"{len(registry())} methods can be imported  [quantize]")
    return [Finding(False, f"{file.reason}  [quantize]") for file in broken] or [whole]


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


def text_packages(profile: Profile) -> list[Finding]:
    """Whether the optional packages of text embeddings are there, where a model has a text encoder."""
    if not any("text_encoder" in model for model in profile["models"].values()):
        return []
    try:
        require_packages()
    except Unsupported as problem:
        return [Finding(False, f"{problem}  [embed_prompts]")]
    return [Finding(True, "packages of text embeddings  [embed_prompts]")]


def vbench_environment(profile: Profile, results: Path) -> list[Finding]:
    """Whether VBench's own environment is there, where it scores clips of the default tables."""
    if not any(scored_by_vbench(profile, run) for run in all_runs(profile)):
        return []
    given, folder = profile.get("vbench", {}).get("python"), results / "envs" / "vbench"
    python = python_of(folder) if given is None else Path(given)
    if python.is_file() and (given is not None or is_installed(folder)):
        return [Finding(True, f"{python}: VBench's environment  [vbench_dimension]")]
    how = f"make it with qdit vbench install {folder}" if given is None else "correct vbench.python"
    return [Finding(False, f"{python}: VBench's environment is missing; {how}, or use --sdm conda  [vbench_dimension]")]


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
