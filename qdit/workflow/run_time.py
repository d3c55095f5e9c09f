"""Estimate the time of rows, from the times of finished rows, or else from a guess."""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from qdit.core.run import Run
from qdit.workflow.cost import run_jobs, speed_of
from qdit.workflow.job_times import seconds_in
from qdit.workflow.profile import Profile, all_runs, search_of
from qdit.workflow.progress import LEARNED_SECONDS, OTHER_SECONDS, SECONDS
from qdit.workflow.progress_findings import learned_labels

STEPS = ("quantize", "sample")


def seconds_of(profile: Profile, runs: Iterable[Run], results: Path) -> float:
    """Estimate the core-seconds of rows with their calibration and searches.

    For profiles that download weights, the result is in GPU-seconds.
    """
    runs = list(runs)
    if "files" in profile:
        speed = speed_of(profile, results, None)
        jobs = {job.name: job.seconds for run in runs for job in run_jobs(profile, run, speed)}
        return sum(jobs.values())
    measured, learned = measured_seconds(profile, results), learned_labels(profile)
    total = 0.0
    for run in runs:
        guess = LEARNED_SECONDS if run.label in learned else SECONDS["quantize"]
        total += measured.get(("quantize", run.label), guess)
        total += measured.get(("sample", run.setting), SECONDS["sample"]) + OTHER_SECONDS
    searches = {search for run in runs if (search := search_of(profile, run))}
    finished = (results / "search" / f"{search.path}.json" for search in searches)
    total += sum(SECONDS["search"] for file in finished if not file.is_file())
    sets = {(run.setting, run.form, run.replicate) for run in runs}
    return total + SECONDS["calibrate"] * len(sets)


def measured_seconds(profile: Profile, results: Path) -> dict[tuple[str, str], float]:
    """Return (step, name) → mean seconds of finished rows.

    For the step `quantize` the name is a label. For the step `sample` it is a setting, and the seconds are those of one
    row.
    """
    times = defaultdict[tuple[str, str], list[float]](list)
    for run in all_runs(profile):
        for step, name in zip(STEPS, (run.label, run.setting), strict=True):
            files = sorted((run.folder(results) / "logs").glob(f"{step}*.json"))
            if files and (spent := sum(map(seconds_in, files))) > 0:
                times[step, name].append(spent)
    return {key: math.fsum(values) / len(values) for key, values in times.items()}
