"""VBench's results of a run: sixteen dimensions gathered into one JSON, scaled to 0 … 1, with VBench's three totals.

The constants are those of VBench 0.1.5's scripts/constant.py. Q-DiT's Table 3 prints the scores as they are.
"""

import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdit.core.errors import ConfigError, DataError, QditError, did_you_mean
from qdit.core.failure import KEY as FAILURE
from qdit.core.failure import Failure
from qdit.core.files import one_line, read_json
from qdit.core.metrics import DIMENSIONS
from qdit.metrics.vbench import driver as vbench_driver
from qdit.metrics.vbench.driver import VERSION
from qdit.metrics.vbench.needed_weights import WEIGHTS
from qdit.metrics.vbench_totals import totals

PROTOCOL = f"VBench {VERSION}"

RANGES: Mapping[str, tuple[float, float]] = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
"""Dimension → the scores that become 0 and 1; all others stay as they are."""

OF_A_HUNDRED = "imaging_quality"
"""The dimension whose clips' scores go to 100 while its own goes to 1."""
COSINES = ("overall_consistency", "temporal_style", "appearance_style")
"""Dimensions that are cosines of embeddings, which may fall below 0; all others go from 0 to 1."""
TOLERANCE = 1e-6

SAME = ("samples", "suite_sha256", "packages")
"""What the dimensions of a run must have in common."""
SCORE = frozenset({"score", "clips", "skipped", "clips_sha256", "weights_sha256", *SAME})
"""What a dimension's JSON holds."""


def known_dimension(name: str) -> str:
    """Return the name of a dimension unchanged; ConfigError with a suggestion for an unknown name."""
    if name not in WEIGHTS:
        raise ConfigError(f"dimension {name!r}: allowed are {', '.join(WEIGHTS)}{did_you_mean(name, WEIGHTS)}")
    return name


def normalised(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores scaled so that VBench's worst value is 0 and its best value is 1."""
    ends = {dimension: RANGES.get(dimension, (0.0, 1.0)) for dimension in scores}
    return {d: (value - ends[d][0]) / (ends[d][1] - ends[d][0]) for d, value in scores.items()}


def read_result(path: Path) -> dict[str, Any]:
    """Read one dimension's JSON that the driver wrote, a score or a failure; DataError on anything else."""
    result = read_json(path)
    if (
        not isinstance(result, dict)
        or not isinstance(result.get("dimension"), str)
        or result["dimension"] not in WEIGHTS
        or not (result.get(FAILURE) or SCORE <= result.keys())
    ):
        raise DataError(f"{path}: not the score of a VBench dimension; make it with qdit vbench run")
    try:
        failure = Failure.within(result)
    except (TypeError, ValueError) as problem:
        raise DataError(f"{path}: holds a failure that cannot be read ({one_line(problem)}); score it again") from None
    if failure is None:
        check_scores(result, path)
        check_lists(result, path)
    return result


def check_scores(result: Mapping[str, Any], path: Path) -> None:
    """Raise DataError unless the score of a dimension is a possible number, and the score of each clip is a number."""
    dimension, score, clips = result["dimension"], result["score"], result["clips"]
    if not isinstance(clips, dict):
        raise DataError(f"{path}: clips is a {type(clips).__name__}, must give a score for each clip; score it again")
    least = -1.0 if dimension in COSINES else 0.0
    if isinstance(score, bool) or not is_number(score) or not least - TOLERANCE <= score <= 1 + TOLERANCE:
        raise DataError(
            f"{path}: {dimension} has the score {score!r:.40}, must be a number from {least:g} to 1; score it again"
        )
    if bad := [name for name, value in clips.items() if not is_number(value)]:
        raise DataError(
            f"{path}: {dimension} has the score {clips[bad[0]]!r:.40} for {bad[0]!r}, no number; score it again"
        )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, or true or false, which VBench gives to some clips."""
    return isinstance(value, int | float) and math.isfinite(value)


def check_lists(result: Mapping[str, Any], path: Path) -> None:
    """Raise DataError unless the fields of a dimension's JSON beside the scores have the types of the driver's file."""
    kinds = {"samples": int, "suite_sha256": str, "packages": dict, "skipped": list}
    kinds |= {"clips_sha256": dict, "weights_sha256": dict}
    for name, kind in kinds.items():
        if type(result[name]) is not kind:
            raise DataError(
                f"{path}: {name} is a {type(result[name]).__name__}, must be a {kind.__name__}; make the file again"
                " with qdit vbench run"
            )


def gather(paths: Sequence[Path]) -> dict[str, Any]:
    """Join the result files of a run's dimensions into one value. Without all sixteen, `totals` is None.

    `missing` lists the missing dimensions. For a run without clips the recorded failure is returned. Raises DataError
    for a dimension that occurs twice, and for scores of different suites, samples, packages or clips.
    """
    by_dimension: dict[str, dict[str, Any]] = {}
    for path in paths:
        read = read_result(path)
        if read["dimension"] in by_dimension:
            raise DataError(f"{path}: a second score of {read['dimension']}; give each dimension once")
        by_dimension[read["dimension"]] = read
    if not by_dimension:
        raise DataError("no scores to gather; run qdit vbench run for at least one dimension")
    if failures := [result[FAILURE] for result in by_dimension.values() if result.get(FAILURE)]:
        return {"protocol": PROTOCOL, FAILURE: failures[0]}
    first = next(iter(by_dimension.values()))
    for name, result in by_dimension.items():
        if different := [key for key in SAME if result[key] != first[key]]:
            raise DataError(
                f"{name} and {first['dimension']} differ in {', '.join(different)}; score them again with the same"
            )
    scores = {name: float(by_dimension[name]["score"]) for name in DIMENSIONS if name in by_dimension}
    missing = [name for name in DIMENSIONS if name not in by_dimension]
    return {
        "protocol": PROTOCOL,
        "scores": scores,
        "normalised": normalised(scores),
        "totals": None if missing else totals(normalised(scores)),
        "missing": missing,
        "results": {name: [result["score"], result["clips"]] for name, result in by_dimension.items()},
        "skipped": {name: result["skipped"] for name, result in by_dimension.items()},
        "clips_sha256": clips_of(by_dimension),
        "weights_sha256": {
            file: digest for result in by_dimension.values() for file, digest in result["weights_sha256"].items()
        },
        **{key: first[key] for key in SAME},
    }


def clips_of(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each clip of any dimension → its sha256; DataError if two dimensions scored different clips of one name."""
    digests: dict[str, str] = {}
    for dimension, result in parts.items():
        for clip, digest in result["clips_sha256"].items():
            if digests.setdefault(clip, digest) != digest:
                raise DataError(
                    f"{dimension}: was scored on another {clip!r} than the dimensions before it; score all dimensions"
                    " on the clips of one run"
                )
    return digests


def run_driver(python: Path, arguments: Sequence[str], *, device: str | None = None) -> None:
    """Run the driver in VBench's environment; its line about bad input becomes a DataError.

    With a `device` (`cpu`, `cuda`, `cuda:N`) it computes there, on a GPU that no other job holds.
    """
    driver = Path(vbench_driver.__file__).resolve()
    started = [str(driver)] if device is None else [str(driver.with_name("launch.py")), device]
    command = [str(python), "-I", *started, *arguments]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    except OSError as problem:
        raise DataError(
            f"{python}: cannot be run ({problem.strerror}); make VBench's environment with qdit vbench install FOLDER"
            " (in the workflow: snakemake vbench_env) and give --python FOLDER/bin/python"
        ) from None
    lines = done.stderr.strip().splitlines()
    if done.returncode == 2 and lines and lines[-1].startswith("vbench: error: "):
        raise DataError(lines[-1].removeprefix("vbench: error: "))
    if done.returncode:
        shown = " | ".join(lines[-3:])
        raise QditError(f"VBench failed with exit code {done.returncode}: {shown}")
