"""`make gpu-check`: write an archive with all that `qdit bench gpu` needs on a machine without a package index.

This file imports only the standard library, so that `python qdit/bench/gpu_pack.py` works before an installation.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("qdit/", "baselines/", "config/", "weights/digit-classifier.safetensors", "weights/manifest.json")
FILES = (*FOLDERS, "weights/dit-digits-natural.safetensors", "pyproject.toml", "setup.py", "LICENSE", "README.md")
"""Tracked files that travel: all that begin with one of these."""
WHEELS = ROOT / "build" / "gpu-wheels"
"""Wheels in this folder travel too: packages that the other machine lacks."""
LIMIT = 60 * 2**20
"""Bytes."""
ARCHIVE = Path("build/gpu-check.tar")
COMMAND = """mkdir -p gpu-check && tar -xf gpu-check.tar -C gpu-check && cd gpu-check && \\
{ ! ls wheels/*.whl || python3 -m pip install -q --no-index --no-deps --target site wheels/*.whl; } && \\
PYTHONPATH=$PWD:$PWD/site python3 -m qdit bench gpu"""
"""What to type on the machine with the GPU, beside the archive."""


def files() -> list[Path]:
    """Files of the repository that go into the archive, relative to the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name.startswith(FILES) and (ROOT / name).is_file()]


def pack(out: Path) -> int:
    """Write the archive and return its size in bytes. SystemExit if it is larger than `LIMIT`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w") as archive:
        for path in files():
            archive.add(ROOT / path, arcname=path.as_posix())
        for wheel in sorted(WHEELS.glob("*.whl")):
            archive.add(wheel, arcname=f"wheels/{wheel.name}")
    size = out.stat().st_size
    if size > LIMIT:
        out.unlink()
        sys.exit(f"{out}: {size / 2**20:.1f} MiB, allowed are {LIMIT / 2**20:.0f}; take wheels out of {WHEELS}")
    return size


def main() -> None:
    """Write the archive, and print the one command to run on the other machine."""
    out = ROOT / ARCHIVE
    size = pack(out)
    sys.stdout.write(f"{out}: {size / 2**20:.1f} MiB\n\nBeside it, on a machine with a GPU, PyTorch and Triton:\n\n")
    sys.stdout.write(f"{COMMAND}\n\nThen copy gpu-check/results/gpu/*.json to results/gpu/ here.\n")


if __name__ == "__main__":
    main()
