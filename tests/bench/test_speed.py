"""The speed of a row: its own, and relative to full precision that sampled in turn with it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from qdit.bench.speed import OVER, SpeedJob, measure_speed, speeds
from qdit.core.errors import ConfigError
from qdit.core.files import read_json
from qdit.core.provenance import processor
from qdit.methods.quantize import quantize_model
from qdit.quant.checkpoint import save_checkpoint
from qdit.report.data.speeds import speed_cells
from qdit.sampling.protocol import Protocol
from qdit.sampling.run import SampleJob
from tests.small_models import random_dit


def racer(*seconds: float):
    """A network whose trajectories take these seconds."""
    times = iter(seconds)
    return SimpleNamespace(seconds=lambda _job: next(times))


def test_the_ratio_is_the_median_of_neighbours() -> None:
    job = SpeedJob(SampleJob(Path("x"), Path("y"), Protocol(), 8, 8), Path("z"))
    facts = speeds(job, racer(9.0, 1.0, 2.0, 4.0), racer(9.0, 3.0, 2.0, 8.0))
    assert facts["seconds"] == [1.0, 2.0, 4.0] and facts["full_precision_seconds"] == [3.0, 2.0, 8.0]
    assert facts["images_per_second"] == 8 / 2.0 and facts[OVER] == 2.0
    assert OVER not in speeds(job, racer(9.0, 1.0, 2.0, 4.0), None)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Checkpoints `fp` and `rtn` of a tiny DiT."""
    for name, bits, options in (("fp", 16, {}), ("rtn", 8, {"activation": "dynamic", "group_size": 16})):
        result = quantize_model(random_dit(), name, weight_bits=bits, activation_bits=bits, options=options)
        save_checkpoint(tmp_path / name, result, {"method": name})
    return tmp_path


def job_of(folder: Path, name: str, full: str) -> SpeedJob:
    sample = SampleJob(folder / name, folder, Protocol(steps=2), 4, 4)
    return SpeedJob(sample, folder / f"{name}.json", folder / full, repeats=1)


def test_a_row_is_measured_beside_full_precision(checkpoints: Path) -> None:
    measure_speed(job_of(checkpoints, "rtn", "fp"))
    content = read_json(checkpoints / "rtn.json")
    assert content["machine"]["processor"] == processor()
    simulated = content["modes"]["simulate"]
    ((own,), (other,)) = simulated["seconds"], simulated["full_precision_seconds"]
    assert simulated[OVER] == other / own > 0
    assert simulated["images_per_second"] == 4 / own
    cells = speed_cells(content)
    assert cells["over_fp_simulated"] == simulated[OVER]
    integer = content["modes"]["integer"]
    assert cells["over_fp_real"] == integer.get(OVER) and (OVER in integer) != ("why" in integer)


def test_speeds_are_relative_to_full_precision_only(checkpoints: Path) -> None:
    with pytest.raises(ConfigError, match="is quantized; give the checkpoint of method fp"):
        measure_speed(job_of(checkpoints, "rtn", "rtn"))
