"""Builds the compiled kernels at install, where there is a C++ compiler; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))

from qdit.kernels.building import SOURCES, BuildError, build


class BuildWithKernels(build_py):
    """An editable install has no folder of its own: there `qdit kernels build` or the first use builds."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "qdit", "kernels", "built")
        try:
            build(SOURCES, folder)
            (folder / ".lock").unlink(missing_ok=True)
        except BuildError as problem:
            self.warn(f"kernels are not built, torch will compute instead: {problem}")


class BinaryDistribution(Distribution):
    """The wheel is for this kind of machine."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": BuildWithKernels}, distclass=BinaryDistribution)
