"""Downloads from a local server and a hub of our own: whole, resumed, refused; never a real network."""

import hashlib
import http.server
import io
import socket
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qdit.core.errors import CheckpointError, ConfigError, DataError
from qdit.metrics.vbench.needed_weights import SOURCES
from qdit.workflow import fetch as fetching
from qdit.workflow import paths
from qdit.workflow.fetch import NeededFile, check_whole, choose, files_of, is_named, unverified
from qdit.workflow.profile import load_profile

CONTENT = bytes(range(256)) * 8192
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `cut` bytes at most are sent of each answer, `etag` names the version."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.cut, self.ranges = CONTENT, '"one"', len(CONTENT), list[str | None]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/weights.pt":
            self.send_error(404, "Not Found")
            return
        span, current = self.headers.get("Range"), self.headers.get("If-Range") == self.server.etag
        self.server.ranges.append(span)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and current else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, and the server of the test, which has no certificate, counts as https."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "is_https", lambda url: url.startswith("http"))


def fetch(file: NeededFile, **options: Any) -> bool:
    return fetching.fetch(file, allow_unverified=True, **options)


def needed(folder: Path, url: str, **entry: Any) -> NeededFile:
    path = Path("weights") / folder.relative_to(Path.cwd()) / "deep" / "weights.pt"
    return NeededFile(path, ("tests",), {"url": url, "megabytes": 2, "licence": "none", **entry})


def test_a_file_arrives_whole_once(server: Server, tmp_path: Path) -> None:
    file = needed(tmp_path, server.url, sha256=SHA256[:8])
    assert fetch(file)
    assert file.path.read_bytes() == CONTENT
    assert [path.name for path in file.path.parent.iterdir()] == ["weights.pt"]
    assert not fetch(file)
    assert server.ranges == [None]


def test_a_download_that_stopped_goes_on(server: Server, tmp_path: Path) -> None:
    file, server.cut = needed(tmp_path, server.url, sha256=SHA256), 500_000
    for arrived in (500_000, 1_000_000):
        with pytest.raises(DataError, match=r"it goes on from weights\.pt\.part") as raised:
            fetch(file)
        assert "\n" not in str(raised.value)
        assert not file.path.exists()
        assert file.path.with_name("weights.pt.part").stat().st_size == arrived
    server.cut = len(CONTENT)
    assert fetch(file)
    assert file.path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=500000-", "bytes=1000000-"]


def test_another_version_is_downloaded_from_the_beginning(server: Server, tmp_path: Path) -> None:
    file, server.cut = needed(tmp_path, server.url), 500_000
    with pytest.raises(DataError):
        fetch(file)
    server.content, server.etag, server.cut = CONTENT[::-1], '"two"', len(CONTENT)
    assert fetch(file)
    assert file.path.read_bytes() == CONTENT[::-1]


def test_a_part_that_is_longer_than_the_file_is_dropped(server: Server, tmp_path: Path) -> None:
    file = needed(tmp_path, server.url)
    file.path.parent.mkdir(parents=True)
    partial = file.path.with_name("weights.pt.part")
    partial.write_bytes(CONTENT + b"more")
    fetching.etag_file(partial).write_text(server.etag)
    assert fetch(file)
    assert file.path.read_bytes() == CONTENT


def test_what_arrives_must_be_what_is_meant(server: Server, tmp_path: Path) -> None:
    file = needed(tmp_path, server.url, sha256="0" * 64)
    with pytest.raises(DataError, match="removed; look") as raised:
        fetch(file)
    assert "\n" not in str(raised.value)
    assert not list(file.path.parent.iterdir())


def test_a_file_that_is_there_is_never_overwritten(server: Server, tmp_path: Path) -> None:
    file = needed(tmp_path, server.url, sha256=SHA256)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b"another")
    with pytest.raises(CheckpointError, match="damaged or another one"):
        fetch(file)
    assert file.path.read_bytes() == b"another"
    assert server.ranges == []


def test_servers_that_do_not_answer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        fetch(needed(tmp_path, server.url.replace("weights", "nothing")))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DataError, match="run the same command again"):
            fetch(needed(tmp_path, f"http://127.0.0.1:{closed.getsockname()[1]}/weights.pt"))


def test_a_full_disk_is_noticed_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SPARE", 1 << 60)
    with pytest.raises(DataError, match="make room"):
        fetch(needed(tmp_path, server.url))
    assert not (tmp_path / "weights" / "deep" / "weights.pt.part").exists()


def test_the_hub_is_asked_for_one_file(tmp_path: Path) -> None:
    requests: list[dict[str, Any]] = []

    def hub(**arguments: Any) -> str:
        requests.append(arguments)
        path = Path(arguments["local_dir"], arguments["filename"])
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        return str(path)

    entry = {"hub": "owner/name", "file": "model.safetensors", "revision": "main", "megabytes": 2, "licence": "none"}
    file = NeededFile(Path("weights/vae.safetensors"), ("tests",), {**entry, "sha256": SHA256})
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"of the user")
    assert fetch(file, hub=hub)
    assert (tmp_path / "weights" / "model.safetensors").read_bytes() == b"of the user"
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["model.safetensors", "vae.safetensors"]
    assert file.path.read_bytes() == CONTENT
    expected = {"repo_id": "owner/name", "filename": "model.safetensors", "revision": "main"}
    expected["local_dir"] = Path("weights/.vae.safetensors.hub")
    assert requests == [expected]
    assert file.source == "Hugging Face owner/name@main, model.safetensors"

    def offline(**arguments: Any) -> str:
        raise OSError("offline mode\nis on")

    with pytest.raises(DataError, match="HF_HUB_OFFLINE") as raised:
        fetch(NeededFile(Path("weights/other"), ("tests",), entry), hub=offline)
    assert "\n" not in str(raised.value)


def test_files_of_the_profiles() -> None:
    paper = files_of(load_profile("paper"))
    vbench = {str(file.path.relative_to("weights/paper/vbench")): file for file in paper if "vbench" in file.path.parts}
    video = [file.path for file in paper if any("video" in use or "embed" in use for use in file.uses)]
    assert len(video) == 10 and Path("weights/paper/VBench_full_info.json") in video
    assert len(paper) == 7 + 1 + 2 + 1 + len(video) + len(vbench) + 1 and set(vbench) == set(SOURCES)
    assert all(file.entry and file.uses for file in paper)
    folders = [file.path.parent.name for file in choose(paper, ["config.json"])]
    assert folders == ["sd-vae-ft-mse", "text_encoder", "bert-base-uncased"]
    assert len(choose(paper, [str(paper[0].path)])) == 1
    assert choose(paper, []) == paper
    with pytest.raises(ConfigError, match="did you mean 'config.json'"):
        choose(paper, ["confg.json"])
    mini = files_of(load_profile("mini"))
    assert {file.about for file in mini} == {"part of this repository"}
    assert choose(mini, []) == []
    with pytest.raises(ConfigError, match="allowed: none"):
        choose(mini, ["config.json"])


def test_vbenchs_weights_come_from_where_vbench_gets_them() -> None:
    for file in files_of(load_profile("paper")):
        if file.path.is_relative_to("weights/paper/vbench"):
            source = SOURCES[str(file.path.relative_to("weights/paper/vbench"))]
            entry = file.entry
            url = (
                f"https://huggingface.co/{entry['hub']}/resolve/main/{entry['file']}"
                if "hub" in entry
                else entry["url"]
            )
            assert url == source and ("member" in entry) == source.endswith(".zip")
            assert "size unknown" in file.about or "about " in file.about


def test_one_file_of_an_archive(server: Server, tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("models/other.pth", b"other")
        archive.writestr("models/weights.pt", CONTENT[:5000])
    server.content = data.getvalue()
    digest = hashlib.sha256(CONTENT[:5000]).hexdigest()
    file = needed(tmp_path, server.url, member="models/weights.pt", sha256=digest)
    assert fetch(file) and not fetch(file)
    assert file.path.read_bytes() == CONTENT[:5000]
    assert [path.name for path in file.path.parent.iterdir()] == ["weights.pt"]
    with pytest.raises(DataError, match="not a zip with models/none"):
        fetch(needed(tmp_path / "other", server.url, member="models/none"))
    server.content = CONTENT
    with pytest.raises(DataError, match="not a zip with models/weights.pt") as raised:
        fetch(needed(tmp_path / "third", server.url, member="models/weights.pt"))
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "weights" / "third" / "deep").iterdir())


def test_without_a_whole_digest_a_file_must_be_named(server: Server, tmp_path: Path) -> None:
    for entry in ({}, {"sha256": SHA256[:16]}):
        file = needed(tmp_path, server.url, **entry)
        with pytest.raises(ConfigError, match="--allow-unverified weights/deep/weights.pt"):
            fetching.fetch(file)
        assert unverified([file]) == [file] and "--allow-unverified" in file.about
    assert server.ranges == []
    assert all(is_named(file, [name]) for name in ("weights.pt", "weights/deep", "weights/deep/weights.pt"))
    assert not any(is_named(file, [name]) for name in ("weights/dee", "eights.pt", "weights/deep/weights.pt/x"))
    assert fetching.fetch(needed(tmp_path, server.url, sha256=SHA256))
    assert unverified([file]) == [], "a file that is there is not downloaded"


def test_fetch_checks_paths_and_addresses_again(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = {"url": server.url, "megabytes": 2, "licence": "none", "sha256": SHA256}
    for path in ("../x.pt", "/tmp/x.pt", "baselines/evil.py", "weights/evil.py", "results/x.pt"):
        with pytest.raises(ConfigError):
            fetch(NeededFile(Path(path), ("tests",), entry))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "out").symlink_to(tmp_path.parent)
    with pytest.raises(ConfigError, match="a link out of weights/"):
        fetch(NeededFile(Path("weights/out/x.pt"), ("tests",), entry))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="https://"):
        fetch(needed(tmp_path, server.url, sha256=SHA256))
    assert server.ranges == []


def test_a_server_may_not_send_to_an_address_without_encryption() -> None:
    follow = fetching.SecureRedirects().redirect_request
    request = urllib.request.Request("https://example.org/a")
    for address in ("http://example.org/b", "ftp://example.org/b", "file:///etc/passwd"):
        with pytest.raises(DataError, match="which is not https"):
            follow(request, None, 302, "Found", {}, address)
    followed = follow(request, None, 302, "Found", {}, "https://example.org/b")
    assert followed is not None and followed.full_url == "https://example.org/b"
    assert any(isinstance(handler, fetching.SecureRedirects) for handler in fetching.OPENER.handlers)


def test_missing_empty_and_other_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(CheckpointError, match="qdit fetch"):
        check_whole(path, None)
    path.touch()
    with pytest.raises(CheckpointError, match="qdit fetch"):
        check_whole(path, None)
    path.write_bytes(CONTENT)
    for digest in (None, SHA256, SHA256[:8]):
        check_whole(path, digest)
    with pytest.raises(CheckpointError, match="sha256"):
        check_whole(path, SHA256[:-1] + ("0" if SHA256[-1] != "0" else "1"))


def test_nothing_else_opens_a_connection(repository: Path) -> None:
    words = (
        "urlopen",
        "urlretrieve",
        "build_opener",
        "hf_hub_download",
        "snapshot_download",
        "load_state_dict_from_url",
        "import requests",
    )
    sources = [path for folder in ("qdit", "baselines", "rules") for path in (repository / folder).rglob("*.*")]
    files = {
        path.name for path in sources if path.suffix in (".py", ".smk") for word in words if word in path.read_text()
    }
    assert files == {"fetch.py", "fetch_folders.py"}  # the second is called by the first only
    callers = [path.name for path in sources if path.suffix == ".py" and "import fetch_folder" in path.read_text()]
    assert callers == ["fetch.py"]
