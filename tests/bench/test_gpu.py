"""The one call of a GPU: its sections at tiny sizes on the CPU, its goals, its record, and the archive that travels."""

import tarfile
from pathlib import Path

import pytest
import torch

from qdit.bench import gpu, gpu_goals, gpu_pack
from qdit.bench.gpu_clock import Scale
from qdit.bench.gpu_models import UNFUSED
from qdit.bench.modes import INTEGER, PLAIN, SIMULATED
from qdit.bench.page import text_of
from qdit.core.errors import ConfigError
from qdit.kernels import building
from tests.preloaded import python

ROOT = Path(__file__).parents[2]
QUICK = Scale("cpu", quick=True)


@pytest.mark.parametrize("section", ["reached", "selftest", "correct", "models", "sampling", "inputs", "speed"])
def test_a_section_works_at_tiny_sizes_on_the_cpu(section: str) -> None:
    found = gpu.run_section(section, QUICK)
    assert "failed" not in found
    assert not [value for value in found.values() if isinstance(value, str) and "Error" in value]
    assert found.get("wrong", []) == []


@pytest.mark.slow
@pytest.mark.parametrize("section", ["methods", "pipeline", "rounding", "decoding"])
def test_a_long_section_works_at_tiny_sizes_on_the_cpu(section: str) -> None:
    found = gpu.run_section(section, QUICK)
    assert "failed" not in found
    entries = [entry[0] if isinstance(entry, list) else entry for entry in found.values()]
    assert not [entry for entry in entries if isinstance(entry, str) and "Error" in entry]


def test_a_section_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Scale) -> dict[str, object]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(gpu.SECTIONS, "models", fails)
    content = gpu.measure("test", device="cpu", quick=True, sections=["models", "selftest"])
    assert "illegal memory access" in content["measured"]["models"]["failed"]
    assert content["measured"]["selftest"]["refusal"]
    assert {goal["verdict"] for goal in content["goals"]} == {"not measured"}
    assert "illegal memory access" in text_of(content) and "tiny sizes" in text_of(content)
    assert gpu.record_path({"device": "NVIDIA H100 80GB HBM3"}) == Path("results/gpu/NVIDIA-H100-80GB-HBM3.json")


def test_what_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="section 'fast': allowed are reached"):
        gpu.measure("test", device="cpu", quick=True, sections=["fast"])
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            gpu.measure("test")


class Hopper(Scale):
    """A card that is judged."""

    card = "NVIDIA H100 80GB HBM3"  # type: ignore[assignment]


def test_goals_are_met_missed_or_not_measured() -> None:
    times = {"bfloat16": 1.0, "g32": 2.0, "g64": 2.0, "g128": 0.5, "g192": "OutOfResources: shared memory"}
    times["token × channel"] = 0.5
    measured = {
        "correct": {"cases": 9, "wrong": []},
        "methods": {"rtn common": [0.001, 1.0], "ptqd own": ["RuntimeError: no", 1.0], "calibration ndtc": 0.1},
        "models": {
            PLAIN: {"ms": 2.0},
            SIMULATED: {"times full precision": 1.05},
            UNFUSED[SIMULATED]: {"times full precision": 1.08},
            INTEGER: {"times full precision": 0.5},
        },
        "sampling": {PLAIN: {"hours": 0.4}, SIMULATED: "OutOfMemoryError: 9"},
        "speed": {"8192x1152->3456": times, "seconds": 3.0},
    }
    verdicts = [judged.verdict for judged in gpu.judge(measured, Hopper("cuda"))]
    assert verdicts[:3] == ["met", "missed", "not measured"]
    assert verdicts[3:9] == ["met", "missed", "met", "not measured", "not measured", "met"]
    assert verdicts[9:] == ["met", "missed", "met", "met", "not measured"]
    assert tuple(judged.goal for judged in gpu.judge({}, Hopper("cuda"))) == gpu_goals.GOALS
    assert set(gpu_goals.HOURS) == {PLAIN, SIMULATED} and set(gpu_goals.FORWARDS) == {UNFUSED[SIMULATED], SIMULATED}
    elsewhere = [judged.verdict for judged in gpu.judge(measured, QUICK)]
    assert elsewhere[:3] == verdicts[:3] and set(elsewhere[3:]) == {"not applicable", "not measured"}


@pytest.mark.ci
def test_the_archive_has_what_the_call_needs_and_is_small(tmp_path: Path) -> None:
    size = gpu_pack.pack(tmp_path / "gpu-check.tar")
    assert size <= 60 * 2**20
    with tarfile.open(tmp_path / "gpu-check.tar") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "there", filter="data")
    assert "qdit/bench/gpu.py" in names and not [name for name in names if name.startswith(("docs", "tests", ".git"))]
    sources = tmp_path / "there" / building.SOURCES.relative_to(ROOT)
    travelled = {file.name: file.read_bytes() for file in sources.iterdir()}
    assert travelled == {file.name: file.read_bytes() for file in building.SOURCES.iterdir()}
    code = """
import sys
for absent in ("diffusers", "torch_fidelity", "jsonschema", "av", "snakemake"):
    sys.modules[absent] = None
from qdit.bench.gpu import measure
from qdit.bench.page import text_of
content = measure("there", device="cpu", quick=True, sections=["selftest", "models", "decoding"])
print(text_of(content))
assert "failed" not in content["measured"]["models"]
assert "ms" in content["measured"]["decoding"]["STDiT3"]
"""
    environment = {"PYTHONPATH": str(tmp_path / "there"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    # The sources of the kernels are the same, so their library is too: it is not built a second time.
    environment["XDG_CACHE_HOME"] = str(building.cache_folder().parents[1])
    done = python(["-c", code], tmp_path / "there", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "VAE" in done.stdout and "not measured" in done.stdout


def test_the_archive_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pack, "LIMIT", 1000)
    with pytest.raises(SystemExit, match="allowed are"):
        gpu_pack.pack(tmp_path / "gpu-check.tar")
    assert not (tmp_path / "gpu-check.tar").exists()
