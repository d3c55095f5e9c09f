"""Check everything that a profile needs: files with size and sha256, packages, devices."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from qdit.core.errors import CheckpointError, Unsupported
from qdit.core.provenance import machine, packages
from qdit.core.repository import shipped_path
from qdit.kernels.dense import backend
from qdit.kernels.report import report
from qdit.methods.registry import load_registry, registry
from qdit.models.manifest import check_file
from qdit.models.text_encoder import require_packages
from qdit.workflow.cost import disk_bytes, scored_by_vbench
from qdit.workflow.fetch import NeededFile, check_whole, files_of, is_there
from qdit.workflow.profile import Profile, all_runs
from qdit.workflow.vbench_env import is_installed, python_of

VBENCH = "VBench's environment"


@dataclass(frozen=True)
class Finding:
    """The result of one check: whether it is `ok`, a text, its group in the output, and the checked file (or None)."""

    ok: bool
    text: str
    group: str
    file: NeededFile | None = None

    @property
    def is_missing(self) -> bool:
        """Whether the checked file does not exist."""
        return not self.ok and self.file is not None and not is_there(self.file.path)

    @property
    def is_fetchable(self) -> bool:
        """Whether the checked file does not exist, but the profile says where to download it."""
        return self.is_missing and self.file is not None and bool(self.file.entry)


GROUPS = {
    "weights of the extractor": "extractors",
    "weights of LPIPS": "LPIPS",
    "weights of the judge": "judges",
    "vocabulary of the judge": "judges",
    "folder of the pipeline": "pipelines",
    "calibration prompts": "prompts",
    "weights": "weights of models",
    "VAE": "VAEs",
    "text encoder": "text encoder",
    "instruments": "instruments",
    "prompts": "prompts",
    "real images": "references",
    "VBench": "VBench",
    "I3D": "I3D (FVD, opt-in)",
}
"""How the first use of a file begins (`qdit.workflow.fetch.needed_files`) → its group."""


def group_of(file: NeededFile) -> str:
    """Return the group of a file in the output, for example `weights of models`."""
    return next((group for words, group in GROUPS.items() if file.uses[0].startswith(words)), "other files")


def examine(profile: Profile, results: Path) -> list[Finding]:
    """Check every needed file, then packages, devices and disk."""
    files = [look_at(file) for file in files_of(profile)]
    packages_of = [*text_packages(profile), *vbench_environment(profile, results)]
    return [*files, *method_files(), *packages_of, *device(profile), *disk(profile, results)]


def method_files() -> list[Finding]:
    """Check that every file of methods can be read and imported."""
    broken = load_registry().broken
    whole = Finding(True, f"{len(registry())} methods can be imported  [quantize]", "methods")
    return [Finding(False, f"{file.reason}  [quantize]", "methods") for file in broken] or [whole]


def look_at(file: NeededFile) -> Finding:
    """Check that a needed file exists and has the sha256 from its manifest or from the profile."""
    uses = "; ".join(file.uses)
    source, path = f"; {file.about}" if file.entry else "", shipped_path(file.path)
    try:
        if file.entry:
            check_whole(path, file.sha256)
        check_file(path)
    except CheckpointError as problem:
        return Finding(False, f"{problem}{source}  [{uses}]", group_of(file), file)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    return Finding(True, f"{path}  {size}  {uses}{source}", group_of(file), file)


def text_packages(profile: Profile) -> list[Finding]:
    """Check the optional packages that compute text embeddings, if a model has a text encoder."""
    if not any("text_encoder" in model for model in profile["models"].values()):
        return []
    try:
        require_packages()
    except Unsupported as problem:
        return [Finding(False, f"{problem}  [embed_prompts]", "packages")]
    return [Finding(True, "packages of text embeddings  [embed_prompts]", "packages")]


def vbench_environment(profile: Profile, results: Path) -> list[Finding]:
    """Check that VBench's Python environment exists, if VBench scores clips of the default tables."""
    if not any(scored_by_vbench(profile, run) for run in all_runs(profile)):
        return []
    named, folder = profile.get("vbench", {}).get("python"), results / "envs" / "vbench"
    python = python_of(folder) if named is None else Path(named)
    if python.is_file() and (named is not None or is_installed(folder)):
        return [Finding(True, f"{python}: VBench's environment  [vbench_dimension]", VBENCH)]
    how = f"make it with qdit vbench install {folder}" if named is None else "correct vbench.python"
    text = f"{python}: VBench's environment is missing; {how}, or use --sdm conda  [vbench_dimension]"
    return [Finding(False, text, VBENCH)]


def device(profile: Profile) -> list[Finding]:
    """Check that the device of the profile exists."""
    if not needs_gpu(profile):
        return []
    if count := torch.cuda.device_count():
        return [Finding(True, f"{count} for compute.device cuda", "GPU")]
    return [
        Finding(False, "compute.device is cuda and there is no GPU; run where there is one, or set it to cpu", "GPU")
    ]


def needs_gpu(profile: Profile) -> bool:
    """Return whether a profile computes on GPUs."""
    return bool(profile.get("compute", {}).get("device") == "cuda")


def disk(profile: Profile, results: Path) -> list[Finding]:
    """Check that the disk has room for the results of the default tables."""
    if "files" not in profile:
        return []
    existing = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.is_dir())
    free, needed = shutil.disk_usage(existing).free, sum(disk_bytes(profile).values())
    text = f"{existing}: {free / 1e9:.0f} GB are free, the tables need about {needed / 1e9:.0f} GB"
    enough = free > needed
    return [Finding(enough, text if enough else f"{text}; make room or put results/ elsewhere", "disk")]


def surroundings(*, gpu_needed: bool = False) -> dict[str, str]:
    """Describe the machine: processor, GPU, system, packages, and the backend of quantized layers."""
    without = "none, and this profile needs one" if gpu_needed else "none (this profile needs none)"
    here = machine()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": f"{here['processor']}, {here['cores']} cores",
        "GPU": ", ".join(gpus) or without,
        "system": here["system"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages().items()),
        "backend": f"{backend()} (floating-point linears of the simulated mode)",
        **report(),
    }
