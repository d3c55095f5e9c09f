"""The physical floor: operations over the measured rate, beside what finished jobs took."""

from itertools import count
from pathlib import Path

import pytest

from qdit.core.errors import DataError
from qdit.core.files import write_json
from qdit.workflow.cost import Speed, jobs_of
from qdit.workflow.floor import SIZE, float32_rate, floor_text, spent_by_rule
from qdit.workflow.profile import Profile, load_profile


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("mini")


def finish(results: Path, rule: str, number: int, seconds: float) -> None:
    """The benchmark file of one job, where the rules write it."""
    places = {
        "calibrate": f"logs/calibrate/set-{number}.log.json",
        "search": f"search/place-{number}/w4a8.benchmark.json",
        "quantize": f"runs/run-{number}/logs/quantize.json",
        "sample": f"runs/run-{number}/logs/sample-000.json",
    }
    write_json(results / places[rule], {"seconds": 2 * seconds, "processor_seconds": seconds})


def test_the_rate_is_that_of_the_fastest_product() -> None:
    ticks = count(step=0.5)
    assert float32_rate(2, clock=lambda: next(ticks)) == 2 * SIZE**3 / 0.5
    assert float32_rate(1) > 1e8


def test_a_complete_run_is_compared_with_its_floor(profile: Profile, tmp_path: Path) -> None:
    jobs = jobs_of(profile, Speed(1e9, "a test"))
    for number, job in enumerate(jobs):
        finish(tmp_path, job.rule, number, 3 * job.seconds)
    text = floor_text(profile, tmp_path, 1e9, 4)
    total = sum(job.seconds for job in jobs)
    assert f"Floor of all on 4 cores: {total / 240:.1f} minutes." in text
    assert "3.00 times the floor" in text and "1 GFLOP/s of float32 a core" in text
    for rule, spent in spent_by_rule(profile, tmp_path).items():
        line = next(line for line in text.splitlines() if line.startswith(rule))
        assert line.split()[1] == str(spent.jobs) and line.endswith("3.00")


def test_a_run_with_missing_jobs_has_no_ratio(profile: Profile, tmp_path: Path) -> None:
    finish(tmp_path, "sample", 0, 10.0)
    text = floor_text(profile, tmp_path, 1e9, 2)
    jobs = jobs_of(profile, Speed(1.0, ""))
    samples = sum(job.rule == "sample" for job in jobs)
    assert f"1 of {samples} done" in text and f"lacks {len(jobs) - 1} of these jobs" in text
    assert "times the floor" not in text


def test_a_file_without_processor_seconds_is_named(profile: Profile, tmp_path: Path) -> None:
    write_json(tmp_path / "logs" / "sample-000.json", {"seconds": 1})
    with pytest.raises(DataError, match=r"sample-000\.json: not a benchmark file"):
        floor_text(profile, tmp_path, 1e9, 2)
