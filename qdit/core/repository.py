"""The folder with the files that the library reads beside its code: the checkout, or their copy in an installed wheel.

A wheel has them in `qdit/suite/`: Snakefile, rules/, config/, profiles/, baselines/, weights/, results/published/ and
all other files that a run reads. Results are always written below the current folder.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder `qdit/`."""
CHECKOUT = PACKAGE.parent
SUITE = PACKAGE / "suite"
"""Made by setup.py when a wheel is built; a checkout has none."""

ROOT = SUITE if (SUITE / "Snakefile").is_file() else CHECKOUT
"""The folder with Snakefile, config/, baselines/, weights/ and results/published/."""

SHIPPED_FOLDERS = ("weights", "data", "config")
"""Folders of input files: each is looked up in the current folder, then in ROOT."""


def shipped_path(path: Path) -> Path:
    """Path of an input file: the shipped file, if the current folder has no file of this name.

    The command line, `qdit doctor`, `qdit fetch`, `qdit explain` and the rules all call this function. `qdit fetch`
    writes into the current folder. Only relative paths below SHIPPED_FOLDERS are looked up in ROOT. All other paths
    stay unchanged. So does a path that neither folder has. A shipped file below the current folder gets a relative
    path, so that a checkout can be moved.
    """
    if path.exists() or not path.parts or path.parts[0] not in SHIPPED_FOLDERS:
        return path
    shipped = ROOT / path
    if not shipped.exists():
        return path
    return shipped.relative_to(Path.cwd()) if shipped.is_relative_to(Path.cwd()) else shipped


def folder_of(package: str) -> Path:
    """The folder in which one of our two packages, `qdit` or `baselines`, lies."""
    return CHECKOUT if package == "qdit" else ROOT


def make_baselines_importable() -> None:
    """Make `import baselines` find our own package. A wheel does not install it at the top level."""
    if "baselines" in sys.modules:
        return
    folder = ROOT / "baselines"
    spec = importlib.util.spec_from_file_location(
        "baselines", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["baselines"] = module
    spec.loader.exec_module(module)
