"""The installation: its list for CPUs, its limits, and the container recipes as plain scripts with stand-ins."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ("Makefile", "requirements.lock", "pyproject.toml")

PYTHON = f"""#!/bin/sh
# stands for python3: a venv gets programs that write down how they are called
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  for name in python uv qdit; do
    printf '#!/bin/sh\\necho %s "$@" >> "$CALLS"\\n' $name > "$3/bin/$name"; chmod +x "$3/bin/$name"
  done
else
  exec {sys.executable} "$@"
fi
"""
RECORDER = '#!/bin/sh\necho "$(basename $0)" "$@" >> "$CALLS"\n'


def docker_steps() -> str:
    """The RUN lines of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (default,) = re.findall(r"^ARG CPU=(.*)$", text, flags=re.MULTILINE)
    return "\n".join([f"CPU={default}", *re.findall(r"^RUN (.*)$", text, flags=re.MULTILINE)])


def apptainer_steps() -> str:
    """The %post part of the Apptainer definition, in the folder of the test."""
    text = (ROOT / "apptainer.def").read_text(encoding="utf-8")
    (body,) = re.findall(r"^%post\n(.*?)(?=^%|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return body.replace("cd /qdit", ":")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the installation reads, and stand-ins for the programs that download."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"python3": PYTHON, "apt-get": RECORDER, "rm": RECORDER}.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    return tmp_path


def run(script: str, folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a script among the stand-ins; what it printed, and the calls that these wrote down."""
    calls = folder / "calls"
    calls.touch()
    environment = os.environ | {"PATH": f"{folder / 'programs'}:{os.environ['PATH']}", "CALLS": str(calls)}
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHON", "CPU"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, calls.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("steps", [docker_steps, apptainer_steps], ids=["docker", "apptainer"])
def test_the_steps_of_a_container_install_the_cpu_build(folder: Path, steps: "type[object]") -> None:
    done, calls = run(str(steps()), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls[0] == "apt-get update" and {"g++", "make"} <= set(calls[1].split())
    (packages,) = [line for line in calls if "--requirement" in line]
    assert "--torch-backend cpu --no-deps" in packages and packages.endswith("requirements-cpu.txt")
    assert calls[-1] == "qdit kernels build --optional"
    assert (folder / ".venv" / ".installed").exists()


def names(text: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z][\w.-]*==\S+)", text, flags=re.MULTILINE))


def test_the_list_for_cpus_is_the_lock_without_what_only_gpus_need(folder: Path) -> None:
    run("make install CPU=1", folder)
    lock = names((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    left_out = lock - names((folder / ".venv" / "requirements-cpu.txt").read_text(encoding="utf-8"))
    assert left_out == {name for name in lock if name.startswith(("nvidia-", "cuda-", "triton=="))}
    assert len(left_out) > 10 and not any(name.startswith("torch") for name in left_out)


def test_without_the_flag_the_whole_lock_is_installed(folder: Path) -> None:
    done, calls = run("make install", folder)
    assert done.returncode == 0, done.stderr
    (packages,) = [line for line in calls if "--requirement" in line]
    assert packages.endswith("--requirement requirements.lock") and "torch-backend" not in packages
    assert not any("--quiet" in line for line in calls if line.startswith("uv"))  # uv shows what it downloads
    assert "GB on disk" in done.stdout


def test_a_disk_that_is_too_small_is_refused_in_one_line_before_anything_is_made(folder: Path) -> None:
    done, calls = run("make install ROOM_GB=9999999", folder)
    assert done.returncode == 2 and not calls and not (folder / ".venv").exists()
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert re.fullmatch(r"[\d.]+ GB are free here, the installation needs 9999999 GB; make room, or .*CPU=1.*", line)


def test_the_container_ignores_what_a_run_makes() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv", "results/mini"} <= set(ignored)
