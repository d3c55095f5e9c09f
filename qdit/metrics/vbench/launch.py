"""Program that starts the VBench driver on a free GPU. VBench's own environment runs this file.

    PYTHON -I qdit/metrics/vbench/launch.py cpu|cuda|cuda:N CLIPS SUITE.json DIMENSION OUT.json …

The file imports only the standard library and the module of GPU leases. The driver sees no other GPU, because some
programs of VBench always take the first GPU, whatever device they are given.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DRIVER = HERE / "driver.py"


def gpus() -> int:
    """Number of GPUs that CUDA shows to the torch of this environment."""
    command = [sys.executable, "-I", "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def main() -> int:
    """Reserve a GPU, run the driver, and return its exit code."""
    sys.path.insert(0, str(HERE.parents[2]))  # VBench's environment does not have this package
    from qdit.core.errors import ConfigError
    from qdit.core.gpu_lease import VISIBLE, leased, name_of

    try:
        with leased(sys.argv[1] if len(sys.argv) > 1 else "", count=gpus) as device:
            seen = {} if (name := name_of(device)) is None else {VISIBLE: name}
            command = [sys.executable, "-I", str(DRIVER), *sys.argv[2:], "--device", device.partition(":")[0]]
            return subprocess.run(command, env=os.environ | seen, check=False).returncode
    except ConfigError as problem:
        sys.stderr.write(f"vbench: error: {problem}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
