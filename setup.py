"""Builds the compiled kernels at install, where there is a C++ compiler, and puts the suite's files into wheels."""

import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))

from qdit.kernels.building import SOURCES, BuildError, build

HERE = Path(__file__).parent

SUITE = ("Snakefile", "environment.yml", "baselines", "config", "profiles", "report", "rules", "weights")
SUITE += ("results/published", "results/studies")
"""What a run reads beside the library; a wheel carries it in qdit/suite/ (qdit/core/repository.py)."""


class BuildWithSuite(build_py):
    """An editable install has no folder of its own: it reads the checkout, and the first use builds the kernels."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "qdit")
        for name in SUITE:
            copy(HERE / name, package / "suite" / name)
        folder = package / "kernels" / "built"
        try:
            build(SOURCES, folder)
            (folder / ".lock").unlink(missing_ok=True)
        except BuildError as problem:
            self.warn(f"kernels are not built, torch will compute instead: {problem}")


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder without what Python caches."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


class WheelOfOneMachine(bdist_wheel):
    """A wheel for every Python 3 of this kind of machine: the library is opened with ctypes, not by Python's API."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """The wheel is for this kind of machine."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": BuildWithSuite, "bdist_wheel": WheelOfOneMachine}, distclass=BinaryDistribution)
