"""The wheel: what it holds, and that it works in an empty environment and folder, far from the checkout."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.commands import blocks, text_of

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "requirements.lock", "CHANGELOG.md")
SOURCES += ("CITATION.cff", "Snakefile", "environment.yml", "baselines", "config", "profiles", "qdit", "report")
SOURCES += ("rules", "weights", "results/published", "results/studies")
"""Files that the wheel is built from."""
LARGEST_MB = 80
PYTHON = os.environ.get("QDIT_PYTHON", sys.executable)
"""Interpreter with the locked packages that the wheel is installed for: CONTRIBUTING.md."""
FEWER = {"--images 256": "--images 16", "--steps 20": "--steps 2"}
"""Numbers of the README's steps by hand → numbers that take seconds."""
PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"
READY = """
import shutil
from qdit.kernels import building

def copied(compiler, sources, folder):
    built = building.find(building.SOURCES, building.cache_folder())
    for path in (built.path, built.path.with_suffix(".json")):
        shutil.copy2(path, folder)

if building.find(building.SOURCES, building.cache_folder()):
    building._make = copied
"""
"""Before a build of the wheel: its library is the one that this machine has of the same sources, if there is one."""

pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as users build it."""
    return wheel_in(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def quick_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, without the seconds for compiling its library."""
    return wheel_in(tmp_path_factory.mktemp("quick"), before=READY)


def wheel_in(folder: Path, before: str = "") -> Path:
    """Build the wheel from a copy of the sources, so that the checkout gets no build folder."""
    checkout, out = folder / "checkout", folder / "dist"
    for name in SOURCES:
        target = checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__", "built"))
        else:
            shutil.copy2(ROOT / name, target)
    program = f"{before}\nfrom setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    run([sys.executable, "-c", program], checkout)
    (path,) = out.glob("*.whl")
    return path


def run(command: list[str], folder: Path, *, minutes: float = 5) -> str:
    """Standard output of a command in a folder; it sees no sources of the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QDIT_"))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60 * minutes, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_is_small(quick_wheel: Path) -> None:
    assert quick_wheel.stat().st_size < LARGEST_MB * 1e6


def test_a_wheel_is_for_every_python_of_this_machine(quick_wheel: Path) -> None:
    assert "-py3-none-" in quick_wheel.name


def test_a_wheel_installs_one_package(quick_wheel: Path) -> None:
    top = {name.partition("/")[0] for name in names_in(quick_wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"qdit"}


def test_a_wheel_holds_every_file_of_the_library_and_the_suite(quick_wheel: Path) -> None:
    names = names_in(quick_wheel)
    skipped = ("__pycache__", "built", "suite")
    library = [path for path in (ROOT / "qdit").rglob("*") if path.is_file() and not set(path.parts) & set(skipped)]
    assert {path.relative_to(ROOT).as_posix() for path in library} <= names
    for name in ("Snakefile", "config/mini.yaml", "config/paper.yaml", "rules/common.smk", "baselines/ptq4dit.py"):
        assert f"qdit/suite/{name}" in names
    for folder in ("weights", "results/published", "profiles", "report"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {f"qdit/suite/{name}" for name in files} <= names


@dataclass(frozen=True)
class Installed:
    """An environment in which the wheel is installed, and an empty folder."""

    environment: Path
    folder: Path

    def qdit(self, *words: str, minutes: float = 5) -> str:
        return run([str(self.environment / "bin" / "qdit"), *words], self.folder, minutes=minutes)

    def python(self, program: str) -> str:
        return run([str(self.environment / "bin" / "python"), "-c", program], self.folder).strip()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment of PYTHON; the packages it needs are those that PYTHON has already."""
    folder = tmp_path_factory.mktemp("installed")
    environment, empty = folder / "env", folder / "an empty folder"
    empty.mkdir()
    run([PYTHON, "-m", "venv", "--without-pip", str(environment)], folder)
    python = environment / "bin" / "python"
    packages = run([PYTHON, "-c", PACKAGES], folder).strip()
    # First the wheel, then the path to the packages: pip must not see, and remove, the qdit that is installed there.
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)], folder)
    site = Path(run([str(python), "-c", PACKAGES], folder).strip())
    (site / "packages.pth").write_text(f"{packages}\n", encoding="utf-8")
    return Installed(environment, empty)


@pytest.mark.slow
def test_the_library_comes_from_the_wheel(installed: Installed) -> None:
    file = Path(installed.python("import qdit; print(qdit.__file__)"))
    assert file.is_relative_to(installed.environment)
    shipped = installed.python("from qdit.core.repository import ROOT; print(ROOT)")
    assert Path(shipped) == file.parent / "suite"


@pytest.mark.slow
def test_commands_that_say_something_work_in_an_empty_folder(installed: Installed) -> None:
    assert "table2" in installed.qdit("ls")
    assert "ptq4dit" in installed.qdit("methods")
    assert "mini: valid" in installed.qdit("validate", "mini")
    assert "mini: ready" in installed.qdit("doctor")
    assert list(installed.folder.iterdir()) == []


def steps_by_hand() -> list[list[str]]:
    """The `qdit` lines of the README's section, with fewer images and steps."""
    section = text_of("README.md").partition("## One step by hand")[2].partition("\n## ")[0]
    lines = blocks(section, "sh")[0].replace("\\\n", " ")
    for number, fewer in FEWER.items():
        lines = lines.replace(number, fewer)
    return [shlex.split(line)[1:] for line in lines.splitlines() if line.startswith("qdit ")]


@pytest.mark.slow
def test_the_steps_by_hand_work_in_an_empty_folder(installed: Installed) -> None:
    steps = steps_by_hand()
    names = ["calibrate", "quantize", "quantize", "sample", "sample", "reference", "evaluate", "show"]
    assert [words[0] for words in steps] == names
    for words in steps:
        installed.qdit(*words)
    metrics = json.loads((installed.folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["metrics"]["fid"] > 0
    assert metrics["metrics"]["fd_fp"] > 0 and (installed.folder / "sheet.png").is_file()


@pytest.mark.slow
def test_a_table_is_made_in_an_empty_folder(installed: Installed) -> None:
    shutil.copy2(ROOT / "tests" / "workflow" / "tiny.yaml", installed.folder / "tiny.yaml")
    words = ["run", "table5", "--profile", "mini", "--profile", "tiny.yaml", "--cores", "2"]
    installed.qdit(*words, minutes=10)
    assert "q-dit" in (installed.folder / "results" / "tiny" / "tables" / "table5.csv").read_text(encoding="utf-8")
    assert "table5" in installed.qdit(*words, "--dry-run")
