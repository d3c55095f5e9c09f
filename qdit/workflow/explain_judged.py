"""Check the files of networks that judge single images, for `qdit explain`: LPIPS, and the judges of a profile.

A file with a network's values records the digest of the images. It is compared with the images that are there now. The
files of the networks and the reference statistics are checked against metrics.json.
"""

from collections.abc import Iterator
from pathlib import Path

from qdit.core.errors import QditError
from qdit.core.files import load_arrays, parse_json, sha256_json
from qdit.core.metrics_record import MetricsRecord
from qdit.core.run import Run
from qdit.metrics.judged import FEATURES
from qdit.metrics.perceptual_file import digest_of_folder
from qdit.workflow import profile as profiles
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.explain_clips import Evidence, digest

UNREADABLE = "not the values of a network"


def judged_with(commands: Commands, run: Run, record: MetricsRecord) -> Iterator[Evidence]:
    """Yield the files with which LPIPS and judges scored a run; none for a network not in metrics.json."""
    yield from lpips_links(commands, run, record)
    full = profiles.full_precision_run(commands.profile, run)
    for judge, facts in (record.protocol.get("judges") or {}).items():
        runs = {full: " of full precision", run: ""} if judge in FEATURES else {run: ""}
        for of, whose in runs.items():
            path, folder = commands.judged_file(of, judge), commands.samples(of)
            command = shown(commands.judge(of, judge))
            yield f"judge {judge}{whose}", path, images_in(path, "samples"), images_of(folder), command
        for name, path in commands.judge_weights(judge).items():
            yield f"{name} of the judge {judge}", path, digest(path), facts["files"].get(name), None
        if "reference_sha256" in facts:
            reference = commands.model(run.setting)["reference"]
            path, command = commands.judge_reference_file(judge, reference), commands.judge_reference(judge, reference)
            yield f"reference of the judge {judge}", path, digest(path), facts["reference_sha256"], shown(command)


def lpips_links(commands: Commands, run: Run, record: MetricsRecord) -> Iterator[Evidence]:
    """Yield the files of LPIPS: the values, which depend on the images of two runs, and two files of weights."""
    facts = (record.paired or {}).get("lpips")
    if facts is None:
        return
    full = commands.samples(profiles.full_precision_run(commands.profile, run))
    path, command = commands.lpips_file(run), shown(commands.perceptual(run))
    recorded = images_of(commands.samples(run), full)
    yield "LPIPS", path, images_in(path, "samples", "fp_samples"), recorded, command
    for name, weights in zip(("backbone", "linear"), commands.lpips_weights(), strict=True):
        yield f"weights of LPIPS ({name})", weights, digest(weights), facts[f"{name}_sha256"], None


def images_in(path: Path, *keys: str) -> str | None:
    """Return the digest of the images that a file of values belongs to; None if there is no file."""
    if not path.is_file():
        return None
    try:
        origin = parse_json(str(load_arrays(path)["origin"]))
        return sha256_json([origin[key] for key in keys])
    except (QditError, KeyError, TypeError, ValueError):
        return UNREADABLE


def images_of(*folders: Path) -> str | None:
    """Return the digest of the images in folders; None if a folder cannot be read (its own check says why)."""
    try:
        return sha256_json([digest_of_folder(folder, None) for folder in folders])
    except (QditError, OSError):
        return None
