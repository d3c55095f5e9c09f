"""A child of the preloaded process is the program: arguments, folder, path, environment, streams, exit code, end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from qdit.cli import server
from tests import preloaded
from tests.cli.test_server import alive, stand_in
from tests.preloaded import python, snakemake

FACTS = """
import json, os, sys
print(json.dumps([sys.argv, sys.path[:2], os.getcwd(), __name__, sorted(os.environ), "tests.preloaded" in sys.modules]))
print("said", file=sys.stderr)
sys.exit(7)
"""


def program(words: Sequence[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The program itself."""
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_a_child_is_what_the_program_is(tmp_path: Path) -> None:
    (tmp_path / "facts.py").write_text(FACTS, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PYTHONPATH": str(tmp_path / "sources")}
    for words in (["-c", FACTS, "a b", "c"], ["-m", "facts", "a b"], ["-I", str(tmp_path / "facts.py"), "a b"]):
        expected = program(words, tmp_path, environment)
        assert outcome(python(words, tmp_path, environment=environment)) == outcome(expected)
        isolated = words[0] == "-I"
        assert expected.returncode == 7
        assert (str(tmp_path / "sources") in json.loads(expected.stdout)[1]) != isolated


def test_ends_of_a_child_are_those_of_a_program(tmp_path: Path) -> None:
    assert python(["-c", "import os; os.kill(os.getpid(), 9)"]).returncode == -9
    failed = python(["-c", "raise ValueError('wrong')"])
    assert failed.returncode == 1 and failed.stderr.endswith("ValueError: wrong\n")
    assert outcome(python(["-c", "print(end='still here')"])) == (0, "still here", "")
    with pytest.raises(subprocess.TimeoutExpired):
        python(["-c", "import time; time.sleep(60)"], timeout=0.2)


def test_a_child_reads_the_sources_of_its_folder_as_they_are(tmp_path: Path) -> None:
    for word in ("before", "after"):
        (tmp_path / "source.py").write_text(f"WORD = {word!r}\n", encoding="utf-8")
        (tmp_path / "__pycache__").mkdir(exist_ok=True)
        for file in (tmp_path / "__pycache__").iterdir():
            file.unlink()
        assert python(["-c", "import source; print(source.WORD)"], tmp_path).stdout == f"{word}\n"


def test_snakemake_is_the_executable(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text('rule all:\n    shell: "echo made > file"\n', encoding="utf-8")
    done = snakemake(["--cores", "1", "--quiet", "all"], tmp_path)
    assert done.returncode == 0 and (tmp_path / "file").read_text(encoding="utf-8") == "made\n"
    assert "unrecognized arguments: --no-such" in snakemake(["--no-such"], tmp_path).stderr


linux = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the command server needs Linux")
CLIENT = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from preloaded import SERVER, command_server
command = [sys.executable, "-SE", str(SERVER), "run", command_server(Path(sys.argv[1])), "a b"]
sys.exit(subprocess.run(command, timeout=60).returncode)
"""


@linux
def test_a_shared_server_serves_a_command_and_ends_with_its_python(repository: Path, tmp_path: Path) -> None:
    # Only the server runs these sources: `python -m qdit` would take those of the working folder.
    sources = stand_in(tmp_path / "sources", "print(sys.argv[1:], os.getppid())")
    with tempfile.TemporaryDirectory() as temporary:  # short, as the path of a socket must be
        environment = {**os.environ, **preloaded.ONE_THREAD, "PYTHONPATH": str(sources), "TMPDIR": temporary}
        done = program(["-c", CLIENT, str(sources), str(repository / "tests")], repository, environment)
        assert done.returncode == 0, done.stderr
        words, number = done.stdout.rsplit(maxsplit=1)
        assert words == "['a b']"
        until = time.monotonic() + 60
        while alive(int(number)) or list(Path(temporary).glob("qdit-tests-*")):
            assert time.monotonic() < until, "the server or its folder is left"
            time.sleep(0.05)


@linux
def test_a_server_that_fails_at_its_start_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails.py").write_text("import sys\nsys.exit('no server today')\n", encoding="utf-8")
    monkeypatch.setattr(preloaded, "SERVER", tmp_path / "fails.py")
    monkeypatch.setattr(preloaded, "SERVED", ())
    with pytest.raises(RuntimeError, match="the command server ended: no server today"):
        preloaded.command_server(tmp_path)


def test_a_shared_server_starts_with_what_the_server_of_a_run_imports_and_sets() -> None:
    assert preloaded.SERVED == server.PACKAGES
    assert tuple(preloaded.ONE_THREAD) == server.THREADS and set(preloaded.ONE_THREAD.values()) == {"1"}
