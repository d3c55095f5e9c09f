"""Program that scores one folder of clips in one dimension of VBench. VBench's own environment runs this file.

    PYTHON -I qdit/metrics/vbench/driver.py CLIPS SUITE.json DIMENSION OUT.json --weights FOLDER
    PYTHON -I qdit/metrics/vbench/driver.py --ready DIMENSION OUT.json

`--ready` checks the packages of a dimension, before any clip is made.

The file imports only the standard library, vbench 0.1.5, and its neighbour `needed_weights`. Clips are
`<prompt>-<number>.mp4`, as VBench names them. VBench itself scores the existing clips and downloads missing weights.
Here a missing clip or weight gives one line on stderr and exit code 2, and nothing is downloaded.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__:
    from qdit.metrics.vbench.needed_weights import GRIT, SOURCES, WEIGHTS
else:  # VBench's environment runs this file, and does not have this package
    sys.path.append(str(Path(__file__).resolve().parent))
    from needed_weights import GRIT, SOURCES, WEIGHTS  # type: ignore[import-not-found, no-redef]

    sys.path.pop()

VERSION = "0.1.5"
MOST_SAMPLES = 5
"""Clips of a prompt that VBench looks for."""
LONGEST_PROMPT = 240
"""Bytes of a prompt: the name of a clip's file, at most 255, has its number and suffix besides."""

SKIPPING = "color"
"""The dimension that leaves out clips by design: those without the object, or whose object has no colour."""
UNREACHABLE = "http://127.0.0.1:9"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    **{f"{scheme}_proxy": UNREACHABLE for scheme in ("http", "https", "ftp", "all")},
    **{f"{scheme}_PROXY": UNREACHABLE for scheme in ("HTTP", "HTTPS", "FTP", "ALL")},
    "no_proxy": "",
    "NO_PROXY": "",
}
"""What keeps vbench's wget, git, urllib and torch.hub from the network: a proxy that is not there."""


class BadInput(Exception):
    """Exception for wrong input; its message is one line."""


def require_dimension(name: str) -> None:
    """Raise BadInput for an unknown dimension."""
    if name not in WEIGHTS:
        raise BadInput(f"{name!r}: no dimension of VBench; allowed are {', '.join(WEIGHTS)}")


def read_suite(path: Path) -> list[dict[str, Any]]:
    """Read the prompts of a VBench full_info JSON, a list of {prompt_en, dimension, …}."""
    rows = read_json(path, "suite of prompts", "write the suite again")
    if not isinstance(rows, list) or not rows:
        raise BadInput(f"{path}: not a list of prompts in VBench's full_info schema")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("prompt_en"), str) or not row.get("dimension"):
            raise BadInput(f"{path}: entry {number} has no prompt_en or no dimension, allowed is VBench's full_info")
        if not isinstance(row["dimension"], list):
            raise BadInput(
                f"{path}: dimension of entry {number} is a {type(row['dimension']).__name__}, must be a list of names"
            )
        if unknown := [name for name in row["dimension"] if not isinstance(name, str) or name not in WEIGHTS]:
            raise BadInput(
                f"{path}: entry {number} has the unknown dimension {unknown[0]!r:.40}; allowed: {', '.join(WEIGHTS)}"
            )
        prompt = row["prompt_en"]
        if "/" in prompt or not prompt.strip() or not prompt.isprintable() or len(prompt.encode()) > LONGEST_PROMPT:
            raise BadInput(
                f"{path}: the prompt of entry {number} cannot be a file name (is empty, has a / or a control character,"
                f" or over {LONGEST_PROMPT} bytes)"
            )
    return rows


def read_json(path: Path, what: str, remedy: str) -> Any:
    """Read the value of a JSON file. BadInput if it is missing, unreadable or no JSON, or if a key occurs twice."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=object_of)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what}") from None
    except OSError as problem:
        raise BadInput(f"{path}: no {what} ({problem.strerror})") from None
    except RecursionError:
        raise BadInput(f"{path}: not valid JSON (nested too deeply); {remedy}") from None
    except ValueError as problem:
        raise BadInput(f"{path}: not valid JSON ({problem}); {remedy}") from None


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of (key, value) pairs. ValueError if a key occurs twice, because one of its values would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def clip_names(rows: Sequence[Mapping[str, Any]], dimension: str, samples: int) -> list[str]:
    """File names of the clips that a dimension needs, each once, in the suite's order."""
    if not 1 <= samples <= MOST_SAMPLES:
        raise BadInput(f"samples {samples}: VBench looks for 1 to {MOST_SAMPLES} clips of a prompt")
    prompts = dict.fromkeys(row["prompt_en"] for row in rows if dimension in row["dimension"])
    return [f"{prompt}-{number}.mp4" for prompt in prompts for number in range(samples)]


def require_clips(folder: Path, names: Sequence[str]) -> None:
    """Raise BadInput unless every clip exists and is not empty."""
    missing = [name for name in names if not (folder / name).is_file() or not (folder / name).stat().st_size]
    if missing:
        raise BadInput(
            f"{folder}: {len(missing)} of {len(names)} clips are missing or empty, first {missing[0]!r}; nothing is"
            " scored on fewer clips: sample them first"
        )


def clip_digests(folder: Path, names: Sequence[str], listing: Path | None) -> dict[str, str]:
    """sha256 of every clip; BadInput if the run's list of clips gives another sha256 for a clip."""
    digests = {}
    for name in names:
        with (folder / name).open("rb") as data:
            digests[name] = hashlib.file_digest(data, "sha256").hexdigest()
    listed = digests if listing is None else read_listing(listing).get("clips", {})
    if different := [name for name in names if listed.get(name) != digests[name]]:
        raise BadInput(
            f"{folder / different[0]}: not the clip that {listing} lists ({len(different)} of {len(names)} differ);"
            " write the clips again"
        )
    return digests


def read_listing(path: Path) -> dict[str, Any]:
    """Read the list of a run's clips: the sha256 of each clip, or the reason why there are no clips."""
    remedy = "make it with qdit vbench clips --listing"
    listing = read_json(path, "list of clips", remedy)
    if not isinstance(listing, dict) or not any(isinstance(listing.get(key), dict) for key in ("clips", "failure")):
        raise BadInput(f"{path}: no list of clips; {remedy}")
    return listing


def require_weights(folder: Path | None, dimension: str, digests: Mapping[str, str]) -> dict[str, str]:
    """sha256 of every weights file that a dimension needs; BadInput if a file is missing or has another digest."""
    needed = WEIGHTS[dimension]
    digests_read: dict[str, str] = {}
    for name in needed:
        if folder is None:
            raise BadInput(f"{dimension}: needs {len(needed)} files of weights, first {name}; give --weights FOLDER")
        if not (folder / name).is_file():
            raise BadInput(
                f"{folder / name}: weights of {dimension} are missing; they come from {SOURCES[name]}: run qdit fetch"
                " with a profile that lists them, or put the file there by hand"
            )
        with (folder / name).open("rb") as data:
            digests_read[name] = hashlib.file_digest(data, "sha256").hexdigest()
        if not digests_read[name].startswith(digests.get(name, "")):
            raise BadInput(
                f"{folder / name}: sha256 is {digests_read[name][:12]}…, expected {digests[name][:12]}…: the file is"
                " damaged or another one; remove it and fetch it again"
            )
    return digests_read


def require_package(dimension: str) -> None:
    """Raise BadInput unless vbench can be imported, and detectron2 too for dimensions that detect objects with GRiT."""
    if importlib.util.find_spec("vbench") is None:
        raise BadInput(f"{sys.executable}: has no package vbench; make its environment with qdit vbench install FOLDER")
    if (version := importlib.metadata.version("vbench")) != VERSION:
        raise BadInput(f"{sys.executable}: has vbench {version}, this driver is for {VERSION}; install that version")
    if WEIGHTS[dimension] == GRIT and importlib.util.find_spec("detectron2") is None:
        raise BadInput(
            f"{dimension}: needs the package detectron2, which {sys.executable} does not have and PyPI does not offer;"
            " see docs/vbench.md"
        )


def score(
    clips: Path,
    suite: Path,
    dimension: str,
    *,
    weights: Path | None,
    samples: int,
    device: str,
    digests: Mapping[str, str],
    listing: Path | None = None,
) -> dict[str, Any]:
    """Score of a dimension and of each clip, with the digests of the inputs.

    With the `listing` of a run, each clip must be the listed file. A failed run has no clips; its failure is returned.
    """
    require_dimension(dimension)
    if listing is not None and (failure := read_listing(listing).get("failure")):
        return {"dimension": dimension, "failure": failure}
    rows = [row for row in read_suite(suite) if dimension in row["dimension"]]
    if not rows:
        raise BadInput(f"{suite}: has no prompt for {dimension}")
    names, suite_sha256 = clip_names(rows, dimension, samples), hashlib.sha256(suite.read_bytes()).hexdigest()
    require_clips(clips, names)
    weight_digests = require_weights(weights, dimension, digests)
    require_package(dimension)
    files = clip_digests(clips, names, listing)
    with tempfile.TemporaryDirectory(prefix="qdit-vbench-") as scratch:
        value, seen = by_vbench(Path(scratch), clips, rows, dimension, names, weights=weights, device=device)
    absent = set(names) - {name for name, _ in seen}
    if absent and dimension != SKIPPING:
        raise BadInput(f"{clips}: vbench could not read {len(absent)} clips, first {min(absent)!r}; write them again")
    return {
        "dimension": dimension,
        "score": value,
        "clips": dict(seen),
        "skipped": sorted(absent),
        "samples": samples,
        "suite_sha256": suite_sha256,
        "clips_sha256": files,
        "weights_sha256": weight_digests,
        "device": device,
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of the packages that compute the scores."""
    return {name: importlib.metadata.version(name) for name in ("vbench", "torch", "torchvision", "numpy")}


def by_vbench(
    scratch: Path,
    clips: Path,
    rows: Sequence[Mapping[str, Any]],
    dimension: str,
    names: Sequence[str],
    *,
    weights: Path | None,
    device: str,
) -> tuple[float, list[tuple[str, Any]]]:
    """Let VBench score links to exactly these clips; return the dimension's score and [(clip, its score)]."""
    videos, results, checkpoints = scratch / "videos", scratch / "results", scratch / "torch" / "hub" / "checkpoints"
    for folder in (videos, results, checkpoints):
        folder.mkdir(parents=True)
    for name in names:
        (videos / name).symlink_to((clips / name).resolve())
    home = (weights or scratch / "none").resolve()
    home.mkdir(exist_ok=True)
    dino = home / "dino_model" / "dino_vitbase16_pretrain.pth"
    if dino.is_file():
        (checkpoints / dino.name).symlink_to(dino)  # where DINO's hub entry looks before it downloads
    (scratch / "suite.json").write_text(json.dumps(rows), encoding="utf-8")
    os.environ.update(OFFLINE, VBENCH_CACHE_DIR=str(home), TORCH_HOME=str(scratch / "torch"))
    os.chdir(home)  # transformers takes the folder bert-base-uncased here for the hub's repository of that name
    import torch
    from vbench import VBench

    bench = VBench(torch.device(device), str(scratch / "suite.json"), str(results))
    bench.evaluate(str(videos), dimension, dimension_list=[dimension], local=True, mode="vbench_standard")
    value, seen = json.loads((results / f"{dimension}_eval_results.json").read_text(encoding="utf-8"))[dimension]
    if not isinstance(value, int | float) or value != value:
        raise BadInput(f"{dimension}: vbench gives {value!r}, which is not a score; look at the clips")
    return float(value), [(Path(entry["video_path"]).name, entry["video_results"]) for entry in seen]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def ready(dimension: str, out: Path) -> None:
    """Write a JSON file with the installed packages; BadInput if this environment cannot score the dimension."""
    require_dimension(dimension)
    require_package(dimension)
    write_json(out, {"dimension": dimension, "python": sys.executable, "packages": packages()})


def parsed() -> argparse.Namespace:
    """Parse the command-line arguments for scoring one dimension."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, words in (("clips", "folder of clips"), ("suite", "prompts in VBench's full_info schema")):
        parser.add_argument(name, type=Path, help=words)
    parser.add_argument("dimension", help="one of VBench's sixteen")
    parser.add_argument("out", type=Path, help="JSON to write")
    parser.add_argument("--listing", type=Path, help="list of the run's clips, which they must agree with")
    parser.add_argument("--weights", type=Path, help="folder of VBench's weights; nothing is downloaded")
    parser.add_argument("--samples", type=int, default=MOST_SAMPLES, help="clips of a prompt")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--sha256", action="append", default=[], metavar="FILE=DIGEST", help="what a file must be")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Score one dimension and write the result."""
    out = arguments.out.resolve()
    if bad := [pair for pair in arguments.sha256 if not re.fullmatch(r".+=[0-9a-f]{8,64}", pair)]:
        raise BadInput(f"--sha256 {bad[0]!r}: expected FILE=DIGEST with 8 to 64 hex digits")
    result = score(
        arguments.clips,
        arguments.suite,
        arguments.dimension,
        weights=arguments.weights,
        samples=arguments.samples,
        device=arguments.device,
        digests=dict(pair.rsplit("=", 1) for pair in arguments.sha256),
        listing=arguments.listing,
    )
    write_json(out, result)


def main() -> int:
    """Run the driver: read the arguments, then score a dimension or check the packages, and write the result."""
    try:
        if sys.argv[1:2] == ["--ready"] and len(sys.argv) == 4:
            ready(sys.argv[2], Path(sys.argv[3]))
        else:
            run(parsed())
    except BadInput as problem:
        sys.stderr.write(f"vbench: error: {problem}\n")
        return 2
    except OSError as problem:
        if not problem.filename:
            raise
        sys.stderr.write(f"vbench: error: {problem.filename}: {problem.strerror}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
