"""GPUs are leased to one process at a time, by pretended counts of devices and real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qdit.core import gpu_lease as lease
from qdit.core.errors import ConfigError
from qdit.core.gpu_lease import check_device, leased, lock_folder, name_of, visible_gpus

HOLD = """
import sys, time
from pathlib import Path
from qdit.core.gpu_lease import leased
with leased(sys.argv[1], count=lambda: int(sys.argv[2]), folder=Path(sys.argv[3])) as device:
    print(device, flush=True)
    time.sleep(600)
"""

Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lease.VISIBLE, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(lease, "POLL", 0.01)


@pytest.fixture
def hold(tmp_path: Path, repository: Path) -> Iterator[Holder]:
    """Start a process that leases a device and keeps it; all are killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(device: str = "cuda", count: int = 2, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, device, str(count), str(tmp_path)]
        own = os.environ | {"PYTHONPATH": str(repository)} | environment
        started.append(subprocess.Popen(command, env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_cpu_needs_no_lease(tmp_path: Path) -> None:
    def count() -> int:
        raise AssertionError("no GPU may be counted for the CPU")

    with leased("cpu", count=count, folder=tmp_path) as device:
        assert device == "cpu"
    assert not list(tmp_path.iterdir())


def test_processes_get_a_gpu_each_and_the_next_one_waits_until_one_is_killed(tmp_path: Path, hold: Holder) -> None:
    holders = {first_line(process): process for process in (hold(), hold())}
    assert set(holders) == {"cuda:0", "cuda:1"}
    waiting = hold()
    assert waiting.stderr is not None
    line = waiting.stderr.readline()
    assert line.startswith("qdit: waiting for a free GPU: in use are GPU 0 by process")
    assert all(str(process.pid) in line for process in holders.values())
    holders["cuda:1"].send_signal(signal.SIGKILL)
    assert first_line(waiting) == "cuda:1"


def test_a_numbered_gpu_is_that_one_and_is_waited_for(tmp_path: Path, hold: Holder) -> None:
    holder = hold("cuda:1")
    assert first_line(holder) == "cuda:1"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        holder.kill()

    with leased("cuda", count=lambda: 2, folder=tmp_path) as free:
        assert free == "cuda:0"
        with leased("cuda:1", count=lambda: 2, folder=tmp_path, say=say) as asked:
            assert asked == "cuda:1"
    assert len(said) == 1 and "GPU 1 by process" in said[0] and "GPU 0" not in said[0]


def test_a_lease_ends_with_its_context_and_with_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), leased("cuda", count=lambda: 1, folder=tmp_path) as device:
            assert device == "cuda:0"
            raise KeyError
    with leased("cuda", count=lambda: 1, folder=tmp_path, say=pytest.fail) as device:
        assert device == "cuda:0"


def test_a_child_keeps_the_lease_of_its_parent(tmp_path: Path) -> None:
    """Workers of a search outlive a killed parent for a moment: their GPU must not be given away meanwhile."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        with leased("cuda", count=lambda: 1, folder=tmp_path):
            if os.fork() == 0:
                os.read(read, 1)
                os._exit(0)
            os._exit(0)
    os.waitpid(parent, 0)
    with pytest.raises(TimeoutError), leased("cuda", count=lambda: 1, folder=tmp_path, say=time_out):
        pass
    os.write(write, b"x")
    with leased("cuda", count=lambda: 1, folder=tmp_path, say=lambda _: None):
        pass
    os.close(read)
    os.close(write)


def time_out(_: str) -> None:
    raise TimeoutError


def test_lists_that_name_the_same_gpu_share_its_lock(tmp_path: Path, hold: Holder, monkeypatch) -> None:
    assert first_line(hold("cuda", 2, CUDA_VISIBLE_DEVICES="3,5")) == "cuda:0"
    monkeypatch.setenv(lease.VISIBLE, "3")
    with pytest.raises(TimeoutError), leased("cuda", count=lambda: 1, folder=tmp_path, say=time_out):
        pass
    monkeypatch.setenv(lease.VISIBLE, "5,3")
    with leased("cuda", count=lambda: 2, folder=tmp_path, say=pytest.fail) as device:
        assert device == "cuda:0"
    monkeypatch.setenv(lease.VISIBLE, "3,4")
    with leased("cuda", count=lambda: 2, folder=tmp_path, say=pytest.fail) as device:
        assert device == "cuda:1"


@pytest.mark.parametrize(
    ("count", "listed", "names"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (2, "4, 6", ["4", "6"]),
        (1, "GPU-8f3a,9", ["GPU-8f3a"]),
        (0, "", []),
        (0, "-1", []),
    ],
)
def test_names_of_locks(count: int, listed: str | None, names: list[str]) -> None:
    assert visible_gpus(count, listed) == names


@pytest.mark.parametrize(
    ("device", "count", "words"),
    [
        ("gpu", 1, "device 'gpu': allowed are cpu, cuda .* and cuda:N"),
        ("cuda:", 1, "allowed are"),
        ("cuda:-1", 1, "allowed are"),
        ("cuda:1x", 1, "allowed are"),
        ("cpu:0", 1, "allowed are"),
        ("cuda", 0, "there is no GPU here; run where there is one, or take the CPU"),
        ("cuda:2", 2, "there are 2 GPUs here, numbered from 0"),
    ],
)
def test_wrong_devices_are_one_line(device: str, count: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as raised, leased(device, count=lambda: count, folder=tmp_path):
        pass
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_an_empty_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lease.VISIBLE, "")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES is ''"), leased("cuda", count=lambda: 0):
        pass


def test_the_name_of_a_leased_gpu_is_that_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name_of(device) for device in ("cpu", "cuda:0", "cuda:3")] == [None, "0", "3"]
    monkeypatch.setenv(lease.VISIBLE, "5, GPU-abc")
    assert [name_of(device) for device in ("cuda:0", "cuda:1")] == ["5", "GPU-abc"]


def test_devices_by_name() -> None:
    assert [check_device(name) for name in ("cpu", "cuda", "cuda:0", "cuda:12")] == [
        ("cpu", None),
        ("cuda", None),
        ("cuda", 0),
        ("cuda", 12),
    ]


def test_locks_lie_where_only_their_user_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700 and lock_folder() == folder
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert lock_folder() != folder
    monkeypatch.delenv("SLURM_JOB_ID")
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="only you can open"):
        lock_folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="only you can open"):
        lock_folder()
