"""What a stranger's profile can and cannot do: every statement of SECURITY.md."""

import copy
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from qdit.core.errors import ConfigError
from qdit.metrics.vbench.needed_weights import SOURCES
from qdit.workflow.fetch import needed_files
from qdit.workflow.paths import (
    is_https,
    is_verified,
    loaded_part,
    paths_of,
    require_data_path,
    require_fetchable,
    require_python,
)
from qdit.workflow.profile import load_profile, validate

Profile = dict[str, Any]
HTTPS = {"url": "https://example.org/a", "megabytes": 1, "licence": "none"}


@pytest.fixture(scope="module")
def loaded() -> Profile:
    return load_profile("paper")


@pytest.fixture
def paper(loaded: Profile) -> Profile:
    return copy.deepcopy(loaded)


def refused(check: Callable[..., None], *arguments: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        check(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


OUTSIDE = ["../x", "weights/../../x", "/etc/passwd", "~/x", "weights", "x", "qdit/x", "baselines/x", "rules/x", "./x"]
OUTSIDE += ["config/x.safetensors", "tests/x", ".venv/x", "weights/a\nb", "weights/{a}", "C:\\x", "weights/a\x00b", ""]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_stay_in_the_data_folders(path: str) -> None:
    assert refused(require_data_path, path, "models.m.vae").startswith("models.m.vae: found ")


@pytest.mark.parametrize("path", ["weights/a", "data/deep/a.npz", "results/mini/search/a.json", "weights/ä b'$;.pt"])
def test_paths_in_the_data_folders_are_taken(path: str) -> None:
    require_data_path(path, "here")


def test_json_of_config_for_prompts_only() -> None:
    require_data_path("config/mini-vbench.json", "here", prompts=True)
    refused(require_data_path, "config/mini-vbench.json", "here")
    refused(require_data_path, "config/paper.yaml", "here", prompts=True)
    refused(require_data_path, "config/../secret.json", "here", prompts=True)


def test_links_do_not_lead_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    require_data_path("data/x", "here")  # the user's own link of the whole folder
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "weights" / "file").symlink_to("/etc/passwd")
    for path in ("weights/link/x", "weights/file"):
        assert "make weights itself the link" in refused(require_data_path, path, "here")


EVIL_NAMES = [
    "weights/evil.py",
    "weights/evil.PY",
    "weights/a.so",
    "weights/a.smk",
    "weights/Snakefile",
    "weights/a.sh",
]
EVIL_NAMES += ["weights/.bashrc", "data/.git/config", "weights/__pycache__/x.bin", "data/site-packages/evil.pth"]
EVIL_NAMES += ["results/paper/envs/vbench/lib/python3.11/site-packages/evil.pth", "baselines/evil.py", "../x.pt"]


@pytest.mark.parametrize("path", EVIL_NAMES)
def test_nothing_is_fetched_that_would_be_loaded(path: str) -> None:
    assert refused(require_fetchable, path, HTTPS).startswith(f"files.{path}")


@pytest.mark.parametrize(
    "url", ["http://a.org/x", "ftp://a/b", "file:///etc/passwd", "https://", "https:///x", "https://a b"]
)
def test_https_only(url: str) -> None:
    assert not is_https(url)
    assert "https://" in refused(require_fetchable, "weights/x.pt", HTTPS | {"url": url})


@pytest.mark.parametrize("file", ["../x", "/x", "a/../../x", ""])
def test_files_of_the_hub_stay_in_their_folder(file: str) -> None:
    entry = {"hub": "owner/name", "file": file}
    assert ".file: found" in refused(require_fetchable, "weights/x.pt", entry)


def test_what_vbench_runs_or_unpickles_comes_from_its_own_addresses_only(paper: Profile) -> None:
    folder = paper["vbench"]["weights"]
    for name in SOURCES:
        entry = paper["files"][f"{folder}/{name}"]
        require_fetchable(f"{folder}/{name}", entry)
        evil = {
            **entry,
            "sha256": "0" * 64,
            **({"hub": "evil/one"} if "hub" in entry else {"url": "https://evil.org/x"}),
        }
        assert "only" in refused(require_fetchable, f"{folder}/{name}", evil)
        if "hub" in entry:
            assert "only" in refused(require_fetchable, f"{folder}/{name}", entry | {"revision": "mine"})


def test_a_profile_chooses_an_installed_python_and_no_other_program() -> None:
    for path in ("/usr/bin/python3", "results/paper/envs/vbench/bin/python", "/opt/a/python3.11"):
        require_python(path)
    for path in ("/bin/sh", "weights/python", "data/python3", "/tmp/../bin/python", "results/evil", "python3; rm"):
        assert refused(require_python, path).startswith("vbench.python: found ")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("models", "dit-xl-2-256", "forms", "natural"), "/etc/passwd"),
        (("models", "dit-xl-2-256", "vae"), "../vae.safetensors"),
        (("models", "stdit3-opensora", "text_encoder"), "qdit/models"),
        (("extractors", "inception-adm"), "../x.pth"),
        (("references", "imagenet-256"), "/x.npz"),
        (("methods", "q-dit", "allocation"), "config/../../a.json"),
        (("video", "suite"), "/etc/passwd"),
        (("vbench", "weights"), "../vbench"),
        (("vbench", "python"), "/bin/sh"),
        (("fvd", "i3d"), "baselines/x.pt"),
        (("files", "baselines/evil.py"), HTTPS),
        (("files", "weights/x.pt"), HTTPS | {"url": "http://example.org/a"}),
        (("profile",), "published"),
        (("profile",), "../x"),
    ],
)
def test_validation_refuses_it_in_every_place(paper: Profile, where: tuple[str, ...], value: Any) -> None:
    section: Any = paper
    for key in where[:-1]:
        section = section[key]
    section[where[-1]] = value
    assert where[0] in refused(validate, paper)


def test_every_needed_file_is_looked_at(paper: Profile) -> None:
    """A new key of the profile that names a file must be one of `paths_of`."""
    for profile in (paper, load_profile("mini")):
        known = [path for _, path, _ in paths_of(profile)] + list(profile.get("files", {}))
        folders = [*known, *(str(PurePosixPath(path).parent) for path in known)]
        for path in needed_files(profile):
            assert any(path == other or path.startswith(f"{other}/") for other in folders), path


def test_digests_of_the_paper_profile(paper: Profile) -> None:
    verified = [path for path, entry in paper["files"].items() if is_verified(entry)]
    assert (
        len(verified) == 4
        and "weights/paper/lpips-v0.1/alex.pth" in verified
        and "weights/paper/VBench_full_info.json" in verified
    )
    assert not is_verified({"sha256": "6726825d"}) and not is_verified({})
    assert loaded_part("weights/paper/x.pth") is None
