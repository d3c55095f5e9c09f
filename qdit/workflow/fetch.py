"""Download and check files that are not part of the repository, and list those that a profile needs.

Only `qdit fetch` calls `fetch`; nothing else in this repository opens a connection (`qdit vbench install` runs pip).
"""

import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from qdit.core.errors import CheckpointError, ConfigError, DataError, did_you_mean
from qdit.core.files import sha256_file, write_text
from qdit.core.repository import shipped_path
from qdit.metrics.vbench.needed_weights import WEIGHTS
from qdit.workflow.fetch_folders import fetch_folder, is_whole_folder
from qdit.workflow.paths import is_https, is_verified, require_fetchable
from qdit.workflow.profile import Profile, encoder_files
from qdit.workflow.profile_pipelines import judge_files, judges_of, own_files

BLOCK = 1 << 20
TIMEOUT = 60
"""Seconds without a byte after which a server is given up."""

SPARE = 1 << 28
"""Bytes that stay free on a disk after a download."""

Hub = Callable[..., str]
"""`huggingface_hub.hf_hub_download`, or what a test puts in its place."""


class SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server's redirect to another address only if that address is https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to the new address; DataError if the address is not https."""
        if not is_https(newurl):
            raise DataError(f"{req.full_url}: the server sends to {newurl}, which is not https; correct the address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(SecureRedirects)


@dataclass(frozen=True)
class NeededFile:
    """A file that a profile needs: its path, what uses it, and its entry in the profile's `files` (its source)."""

    path: Path
    uses: tuple[str, ...]
    entry: Mapping[str, Any]

    @property
    def sha256(self) -> str | None:
        """The digest that the file must have, or its first characters; None if the profile gives none."""
        return self.entry.get("sha256")

    @property
    def is_tried(self) -> bool:
        """Whether this project once downloaded the file itself.

        Then its whole digest is in the profile, and is not only a copy from the download address.
        """
        return is_verified(self.entry) and str(self.sha256) not in str(self.entry.get("url", ""))

    @property
    def source(self) -> str:
        """The place from which the file comes, in words."""
        if "hub" in self.entry:
            revision = f"@{self.entry['revision']}" if "revision" in self.entry else ""
            return f"Hugging Face {self.entry['hub']}{revision}, {self.entry.get('file', 'all of a pipeline')}"
        return str(self.entry.get("url", "this repository"))

    @property
    def about(self) -> str:
        """Size, source, licence and digest of the file in one line."""
        if not self.entry:
            return "part of this repository"
        digest = f"sha256 {self.sha256}" if self.sha256 else "sha256 unknown"
        if not is_verified(self.entry):
            digest += " (not whole: --allow-unverified)" if self.sha256 else " (--allow-unverified)"
        megabytes = self.entry["megabytes"]
        size = "size unknown," if megabytes is None else f"about {megabytes:g} MB"
        member = f" (inside: {self.entry['member']})" if "member" in self.entry else ""
        if not self.is_tried:
            digest += ", nobody here has seen this address answer"
        return f"{size} from {self.source}{member}, licence: {self.entry['licence']}, {digest}"


def files_of(profile: Profile) -> list[NeededFile]:
    """Return every file that a profile needs, with its source."""
    known = profile.get("files", {})
    return [NeededFile(Path(path), tuple(uses), known.get(path, {})) for path, uses in needed_files(profile).items()]


def needed_files(profile: Profile) -> dict[str, list[str]]:
    """Return file → its uses and the rules that read it, for every file of a profile that no rule makes."""
    uses: dict[str, list[str]] = {}
    known = profile.get("files", {})
    for name, model in profile["models"].items():
        for form, path in model["forms"].items():
            if "pipeline" in model:
                uses.setdefault(path, []).append(f"folder of the pipeline {name}, {form} form (calibrate, sample)")
                continue
            rules = "import_weights" if path in known else "calibrate, quantize, search"
            uses.setdefault(path, []).append(f"weights of {name}, {form} form ({rules})")
        if "text_encoder" in model:  # a video model of latents
            uses.setdefault(model["vae"], []).append(f"VAE of {name} (sample_video)")
            for path in encoder_files(profile, model["text_encoder"]):
                uses.setdefault(path, []).append(f"text encoder of {name} (embed_prompts)")
        elif "vae" in model:
            for path in (model["vae"], str(Path(model["vae"]).with_name("config.json"))):
                uses.setdefault(path, []).append(f"VAE of {name} (sample)")
        if "instruments" in model:
            uses.setdefault(model["instruments"], []).append(f"instruments of {name} (evaluate_video)")
    if "video" in profile:
        uses.setdefault(profile["video"]["suite"], []).append("prompts of clips (sample_video, evaluate_video)")
    for name, path in profile["extractors"].items():
        uses.setdefault(path, []).append(f"weights of the extractor {name} (reference, sample, evaluate)")
    for name, path in profile.get("references", {}).items():
        uses.setdefault(path, []).append(f"real images of {name} (reference_adm)")
    for path, what in own_files(profile).items():
        uses.setdefault(path, []).append(f"{what} (calibrate, sample)")
    for judge in judges_of(profile):
        for name, path in judge_files(profile, judge).items():
            uses.setdefault(path, []).append(f"{name} of the judge {judge} (judge)")
    for name in ("backbone", "linear") if "perceptual" in profile else ():
        uses.setdefault(profile["perceptual"][name], []).append("weights of LPIPS (perceptual)")
    if "vbench" in profile:
        for dimension, names in WEIGHTS.items():
            for name in names:
                uses.setdefault(f"{profile['vbench']['weights']}/{name}", []).append(f"VBench's {dimension} (vbench)")
    if "fvd" in profile:
        uses.setdefault(profile["fvd"]["i3d"], []).append("I3D of FVD (qdit vbench fvd)")
    return uses


def check_whole(path: Path, sha256: str | None) -> None:
    """Raise CheckpointError unless a file exists, is not empty, and has the digest (or its first characters).

    A folder must be that of a whole pipeline, or hold PNGs.
    """
    if path.is_dir() and is_whole_folder(path):
        return
    if not path.is_file() or path.stat().st_size == 0:
        raise CheckpointError(f"{path}: missing; `qdit fetch` with the profile that needs it downloads it")
    if sha256 is not None and not (digest := sha256_file(path)).startswith(sha256):
        raise CheckpointError(
            f"{path}: sha256 is {digest[:12]}…, the profile says {sha256[:12]}…: the file is damaged or another one;"
            " remove it and fetch it again"
        )


def choose(needed: list[NeededFile], names: list[str]) -> list[NeededFile]:
    """Return the files with these paths or file names; without names, all files that have a source.

    If several files have the same file name, all of them are chosen. ConfigError for unknown names.
    """
    known: dict[str, list[NeededFile]] = {}
    for file in needed:
        for name in (str(file.path), file.path.name) if file.entry else ():
            known.setdefault(name, []).append(file)
    for name in names:
        if name not in known:
            listed = ", ".join(str(file.path) for file in needed if file.entry) or "none"
            raise ConfigError(f"{name}: not a file that can be fetched; allowed: {listed}{did_you_mean(name, known)}")
    return [file for name in names for file in known[name]] if names else [file for file in needed if file.entry]


def unverified(files: list[NeededFile]) -> list[NeededFile]:
    """Return the files that would be downloaded although the profile does not give their whole sha256."""
    return [file for file in files if not is_there(file.path) and not is_verified(file.entry)]


def is_named(file: NeededFile, names: list[str]) -> bool:
    """Return whether one of the names is the path of this file, its file name, or a folder that contains it."""
    return any(name in (str(file.path), file.path.name) or file.path.is_relative_to(name) for name in names)


def is_there(path: Path) -> bool:
    """Return whether a file exists and is not empty, in the current folder or in the suite."""
    path = shipped_path(path)
    if path.is_dir():
        return is_whole_folder(path)
    return path.is_file() and path.stat().st_size > 0


def fetch(file: NeededFile, *, hub: Hub | None = None, allow_unverified: bool = False) -> bool:
    """Download a file unless it exists and has its digest; return whether it was downloaded.

    If the file exists with another digest, this is an error and the file stays. Raises ConfigError for a path or
    address that no profile may use (`qdit.workflow.paths`), and for a file without a complete sha256 unless
    `allow_unverified`. Raises DataError if the download fails. The part that arrived stays in `<name>.part`, and the
    next call continues it.
    """
    require_fetchable(str(file.path), file.entry)
    if "hub" in file.entry and "file" not in file.entry:
        return fetch_folder(file.path, file.entry, allow_unverified=allow_unverified)
    if is_there(file.path):
        check_whole(shipped_path(file.path), file.sha256)
        return False
    if not allow_unverified and not is_verified(file.entry):
        raise ConfigError(
            f"{file.path}: the profile does not give its whole sha256, so what arrives from {file.source} cannot be"
            f" checked; put the digest in, or pass --allow-unverified {file.path}"
        )
    file.path.parent.mkdir(parents=True, exist_ok=True)
    if "hub" in file.entry:
        from_hub(file, hub)
    else:
        arrived = download(file.entry["url"], file.path.with_name(f"{file.path.name}.part"))
        if "member" in file.entry:
            unpack(arrived, file)
        require_digest(arrived, file)
        os.replace(arrived, file.path)
        etag_file(arrived).unlink(missing_ok=True)
    return True


def unpack(arrived: Path, file: NeededFile) -> None:
    """Replace a downloaded zip by the one wanted file in it; DataError if the zip does not have this file."""
    member = file.path.with_name(f"{file.path.name}.member")
    try:
        with (
            zipfile.ZipFile(arrived) as archive,
            archive.open(file.entry["member"]) as content,
            member.open("wb") as out,
        ):
            shutil.copyfileobj(content, out, BLOCK)
        os.replace(member, arrived)
    except (zipfile.BadZipFile, KeyError) as problem:
        arrived.unlink()
        etag_file(arrived).unlink(missing_ok=True)
        raise DataError(
            f"{file.source}: what arrived is not a zip with {file.entry['member']} ({problem}); removed; look at the"
            " address"
        ) from None
    finally:
        member.unlink(missing_ok=True)


def require_digest(arrived: Path, file: NeededFile) -> None:
    """Raise DataError and remove the download if it is not the file that the profile describes."""
    if file.sha256 is not None and not (digest := sha256_file(arrived)).startswith(file.sha256):
        arrived.unlink()
        etag_file(arrived).unlink(missing_ok=True)
        raise DataError(
            f"{file.source}: what arrived has sha256 {digest[:12]}…, the profile says {file.sha256[:12]}…; removed;"
            " look at the address, or correct the digest if the publisher changed the file"
        )


def from_hub(file: NeededFile, hub: Hub | None) -> None:
    """Download a file from the Hugging Face hub. The client of the hub continues downloads that stopped."""
    if hub is None:
        from huggingface_hub import hf_hub_download

        hub = hf_hub_download
    entry, folder = file.entry, file.path.with_name(f".{file.path.name}.hub")  # nothing else lies there
    revision = {"revision": entry["revision"]} if "revision" in entry else {}
    try:
        arrived = Path(hub(repo_id=entry["hub"], filename=entry["file"], local_dir=folder, **revision))
    except Exception as problem:  # of the client's many kinds none is ours
        raise DataError(
            f"{file.source}: cannot be downloaded ({type(problem).__name__}: {' '.join(str(problem).split())[:200]});"
            " see that HF_HUB_OFFLINE is not set, or put the file there by hand"
        ) from None
    if not arrived.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{file.source}: the hub wrote {arrived}, not a file in {folder}; correct the profile")
    require_digest(arrived, file)
    os.replace(arrived, file.path)
    shutil.rmtree(folder)


def etag_file(partial: Path) -> Path:
    """Return the file that holds the server's version name (ETag) of a partial download."""
    return partial.with_name(f"{partial.name}.etag")


def download(url: str, partial: Path) -> Path:
    """Download to `partial`. If the server still has the same version, continue where an earlier call stopped."""
    have = partial.stat().st_size if partial.is_file() else 0
    etag = etag_file(partial).read_text(encoding="utf-8") if etag_file(partial).is_file() else ""
    headers = {"User-Agent": "qdit", "Accept-Encoding": "identity"}
    if have and etag:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    try:
        with OPENER.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            have = have if resumed else 0
            total = int(answer.headers["Content-Length"]) + have if "Content-Length" in answer.headers else None
            require_space(partial, (total or 0) - have)
            write_text(etag_file(partial), answer.headers.get("ETag", ""))
            have += copy(answer, partial, have=have, total=total)
    except urllib.error.HTTPError as problem:
        if problem.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return restarted(url, partial)
        raise DataError(f"{url}: the server answers {problem.code} {problem.reason}; look at the address") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as problem:
        raise DataError(f"{url}: {interrupted(problem, partial)}") from None
    if total is not None and have < total:
        raise DataError(f"{url}: {interrupted(f'{have} of {total} bytes arrived', partial)}")
    return partial


def restarted(url: str, partial: Path) -> Path:
    """Download again from the beginning, because the partial download is longer than the file."""
    partial.unlink()
    etag_file(partial).unlink(missing_ok=True)
    return download(url, partial)


def interrupted(why: object, partial: Path) -> str:
    """Write the error message for a download that stopped."""
    return f"the download stopped ({why}); run the same command again, it goes on from {partial.name}"


def require_space(partial: Path, size: int) -> None:
    """Raise DataError if a download of `size` bytes would fill the disk."""
    free = shutil.disk_usage(partial.parent).free
    if size + SPARE > free:
        raise DataError(
            f"{partial.parent}: {free / 1e9:.1f} GB are free, the download needs {(size + SPARE) / 1e9:.1f} GB; make"
            " room, or choose another folder in the profile"
        )


def copy(answer: BinaryIO, partial: Path, *, have: int, total: int | None) -> int:
    """Append the server's data to the first `have` bytes of `partial`; return the number of appended bytes."""
    name, written = partial.name.removesuffix(".part"), 0
    bar = tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, mininterval=1)
    with partial.open("r+b" if have else "wb") as data, bar:
        data.seek(have)
        data.truncate()
        while block := answer.read(BLOCK):
            data.write(block)
            written += len(block)
            bar.update(len(block))
        data.flush()
        os.fsync(data.fileno())
    return written
