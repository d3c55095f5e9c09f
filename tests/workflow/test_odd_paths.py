"""A checkout under a path with spaces, quotes and shell characters works; one under braces is refused in one line."""

import os
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from qdit.core.errors import ConfigError
from qdit.workflow.paths import require_plain_folders
from tests.workflow.checkout import Checkout, copied

TARGET = "results/tiny/runs/digits-cfg1.0-s20/natural/fp/w16a16-common/checkpoint"
ONLY_ON_A_SERVER = '''
"""In the place of `python -m qdit`, which the first job may call before the server listens: call the server again."""

import os
import sys
import time
from pathlib import Path

until = float(os.environ.setdefault("UNTIL", str(time.time() + 60)))
while time.time() < until:
    time.sleep(0.1)
    for socket in Path(os.environ["TMPDIR"]).glob("qdit-*/socket"):
        server = Path(__file__).with_name("cli") / "server.py"
        os.execv(sys.executable, [sys.executable, "-SE", str(server), "run", str(socket), *sys.argv[1:]])
sys.exit("no command server runs the command")
'''


def processes_with(word: str) -> list[psutil.Process]:
    """Processes whose command line has this word."""
    return [process for process in psutil.process_iter(["cmdline"]) if word in " ".join(process.info["cmdline"] or ())]


def test_a_job_runs_under_any_path_without_braces(repository: Path, tmp_path: Path) -> None:
    """The job runs on the command server of its own run."""
    copy = Checkout(copied(repository, tmp_path / "$HOME 'b' \"c\" `id` ;& *"))
    if hasattr(os, "pidfd_open"):  # elsewhere each job runs by itself
        (copy.root / "qdit" / "__main__.py").write_text(ONLY_ON_A_SERVER, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="own-") as temporary:  # short, as the path of a socket must be
        copy.snakemake("--cores", "1", f"{TARGET}/config.json", own_server=Path(temporary))
        until = time.monotonic() + 60
        while list(Path(temporary).glob("qdit-*")) or processes_with(f"{temporary}/"):
            assert time.monotonic() < until, "the server or its folder is left after its run"
            time.sleep(0.05)
    assert (copy.root / TARGET / "model.safetensors").is_file()


def test_a_path_with_braces_is_refused_in_one_line(repository: Path, tmp_path: Path) -> None:
    copy = Checkout(copied(repository, tmp_path / "{a}"))
    done = copy.snakemake("--dry-run", code=2)
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"qdit: error: {copy.root}: Snakemake reads braces in a path as wildcards")
    assert "Traceback" not in done.stderr
    require_plain_folders("/home/a b/'c'", Path("/x$y"))
    with pytest.raises(ConfigError, match="line ends"):
        require_plain_folders("/fine", "/not\nfine")
