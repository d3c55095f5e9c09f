"""Make VBench's environment: a virtual environment with locked packages (`qdit vbench install`).

The command downloads 3.3 GB from PyPI, which become 6.1 GB (PyPI's torch has CUDA). VBench needs transformers 4.33,
numpy 1 and torch 2.5. So it cannot use the environment of the suite.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import read_json, sha256_file, write_json
from qdit.core.repository import ROOT

LOCK = ROOT / "rules" / "envs" / "vbench-lock.txt"
MARK, SUITE = "qdit-vbench.json", "VBench_full_info.json"
PYTHON = (3, 11)
"""The version that the lock was resolved for; some of its packages exist for no later one."""
NEEDED_GB = 12
"""Free disk before: the environment and what the installer keeps while it works."""


def python_of(folder: Path) -> Path:
    """Return the Python interpreter of an environment."""
    return folder / "bin" / "python"


def is_installed(folder: Path) -> bool:
    """Return whether this folder holds a complete installation of the present lock file."""
    mark = folder / MARK
    return mark.is_file() and read_json(mark).get("lock_sha256") == sha256_file(LOCK)


def install(folder: Path) -> bool:
    """Make the environment. Return False if it was complete already.

    It uses uv if uv lies beside this Python, else `venv` and pip. A folder with other contents is refused. The rest of
    a stopped installation is replaced. Raises ConfigError before the installation, and DataError if the installer
    fails.
    """
    if is_installed(folder):
        return False
    if sys.version_info[:2] != PYTHON or not sys.platform.startswith("linux"):
        raise ConfigError(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}: VBench's lock is for Python"
            f" {PYTHON[0]}.{PYTHON[1]} on Linux; use conda with rules/envs/vbench.yaml"
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise ConfigError(f"{folder}: holds something that is not a Python environment; name a new folder")
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    if (free := shutil.disk_usage(existing).free / 1e9) < NEEDED_GB:
        raise ConfigError(
            f"{existing}: {free:.1f} GB are free, VBench's environment needs {NEEDED_GB}; make room first"
        )
    (folder / MARK).unlink(missing_ok=True)
    for command in installer(folder):
        call(command)
    suite = next(folder.glob(f"lib/python*/site-packages/vbench/{SUITE}"))
    shutil.copyfile(suite, folder / SUITE)
    write_json(folder / MARK, {"lock_sha256": sha256_file(LOCK), "python": sys.version.split()[0]})
    return True


def installer(folder: Path, lock: Path = LOCK, *options: str) -> list[list[str]]:
    """Return the commands that make an environment and fill it from a lock file.

    `options` are further options of `pip install`.
    """
    uv = Path(sys.executable).with_name("uv")
    if uv.is_file():
        creation = [str(uv), "venv", "--no-config", "--clear", "--python", sys.executable, str(folder)]
        environment = ["--no-config", "--python", str(python_of(folder))]
        return [creation, [str(uv), "pip", "install", *environment, *options, "-r", str(lock)]]
    creation = [sys.executable, "-m", "venv", "--clear", str(folder)]
    return [creation, [str(python_of(folder)), "-m", "pip", "install", *options, "-r", str(lock)]]


def call(command: Sequence[str]) -> None:
    """Run an installer and show its output. Environment variables PYTHON… and VIRTUAL_ENV… are removed for it."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, env=outside, check=False)
    if done.returncode:
        raise DataError(
            f"{' '.join(command[:3])} … failed with exit code {done.returncode}, see above; run the same command again,"
            " it needs PyPI"
        )
