"""Faults of the same kinds in places that no report named: each ends in one line that says what is wrong."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdit.bench.page import text_of
from qdit.cli.options import parse_json_object
from qdit.cli.search import make_job
from qdit.core.errors import CheckpointError, ConfigError, DataError, QditError
from qdit.core.files import load_tensors, parse_json, save_arrays, save_tensors
from qdit.core.intervals import Resamples, write_resamples
from qdit.core.metrics_record import MetricsRecord
from qdit.core.processes import require_cores
from qdit.metrics.analysis.errors import compare_folders
from qdit.metrics.samples import ListedChunk, read_chunk
from qdit.models.diffusers_format import read_folder
from qdit.quant.checkpoint import Quantized, load_checkpoint, save_checkpoint
from qdit.report.data.metrics_json import resamples_of
from qdit.sampling.calibration_set import load_calibration, save_calibration
from qdit.sampling.protocol import Protocol
from tests.core.test_metrics_record import content
from tests.small_models import TINY, calibration_set, random_dit
from tests.small_video_models import TINY_VIDEO, random_stdit3, video_calibration_set

TWO_STEPS = Protocol(sampler="ddim", steps=2, cfg_scale=1.0)


def refused(error: type[QditError], words: str, call: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(error, match=words) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)


# 1. A record takes its facts from files: figures about errors, and the resampled values beside a record.


def saved(folder: Path, model: Any, **record: Any) -> Path:
    save_checkpoint(folder, Quantized(model), record)
    return folder


def test_errors_are_measured_against_full_precision_of_the_same_weights(tmp_path: Path) -> None:
    record = {"method": "fp", "weight_bits": 16, "activation_bits": 16, "weights_sha256": "a" * 64}
    full = saved(tmp_path / "full", random_dit(), **record)
    quantized = saved(tmp_path / "quantized", random_dit(), **record | {"method": "rtn", "weight_bits": 4})
    other = saved(tmp_path / "other", random_dit(), **record | {"weights_sha256": "b" * 64})
    clips = saved(tmp_path / "clips", random_stdit3(TINY_VIDEO), **record)
    for first, second, words in (
        (quantized, full, "rtn w4a16, full precision is w16a16"),
        (full, other, "of the weights dit bbbbbbbbbbbb…, full precision .* of dit aaaaaaaaaaaa…"),
        (full, clips, "of the weights stdit3"),
    ):
        refused(ConfigError, words, compare_folders, first, {"x": second}, tmp_path / "x.npz", TWO_STEPS, samples=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(
        CheckpointError, "no such file", compare_folders, full, {"x": empty}, tmp_path / "x.npz", TWO_STEPS, samples=2
    )
    assert not (tmp_path / "x.npz").exists()


def test_resampled_values_of_another_run_are_refused(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    record = MetricsRecord.from_json(content())
    name = next(name for name in record.intervals if record.metrics[name] is not None)
    value = float(record.metrics[name] or 0)
    values = value + 0.1 * draw.standard_normal(200)
    write_resamples(tmp_path, Resamples({name: values}, "images 1"))
    refused(DataError, f"is of another run, it gives {name}", resamples_of, record, tmp_path)


# 5. Types are checked wherever a file holds them: calibration data of images and clips.


@pytest.mark.parametrize(("name", "dtype"), [("x", "float64"), ("label", "float32"), ("timestep", "float32")])
def test_types_of_calibration_data_of_images(name: str, dtype: str, tmp_path: Path) -> None:
    retyped(tmp_path / "a", calibration_set("trajectory", samples=4), name, dtype)
    refused(DataError, f"{name} is {dtype}, must be ", load_calibration, tmp_path / "a", TINY)


@pytest.mark.parametrize(("name", "dtype"), [("x", "float64"), ("timestep", "int64"), ("mask", "int64")])
def test_types_of_calibration_data_of_clips(name: str, dtype: str, tmp_path: Path) -> None:
    retyped(tmp_path / "a", video_calibration_set("trajectory", samples=4), name, dtype)
    refused(DataError, f"{name} is {dtype}, must be ", load_calibration, tmp_path / "a", TINY_VIDEO)


def retyped(path: Path, calibration: Any, name: str, dtype: str) -> None:
    save_calibration(path, calibration)
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors | {name: tensors[name].to(getattr(torch, dtype))}, metadata)


# 7. A line that names the right cause: clips for a step of images, an exported folder for a checkpoint.


def test_clips_are_named_where_images_are_wanted(tmp_path: Path) -> None:
    from qdit.core.files import sha256_file

    file = tmp_path / "00000.npz"
    save_arrays(file, {"frames": np.zeros((1, 3, 2, 4, 4), np.uint8), "first": np.array(0), "key": np.array("k")})
    listed = ListedChunk(file.name, sha256_file(file))
    refused(DataError, "holds clips, this step is for images", read_chunk, tmp_path, listed, key="k")


def test_an_exported_folder_is_named_where_a_checkpoint_is_wanted(tmp_path: Path) -> None:
    from qdit.diffusers import export_checkpoint

    export_checkpoint(saved(tmp_path / "checkpoint", random_dit(), method="fp"), tmp_path / "exported")
    refused(CheckpointError, "is a folder for diffusers .*, no checkpoint", load_checkpoint, tmp_path / "exported")


def test_an_edited_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", random_dit(), method="rtn", activation_bits=8)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edited = copy.deepcopy(config)
    edited["record"]["activation_bits"] = 4
    (folder / "config.json").write_text(json.dumps(edited), encoding="utf-8")
    refused(CheckpointError, "edited by hand or damaged", load_checkpoint, folder)
    shutil.rmtree(folder)


# 9. Processes are bounded by the cores, as threads are: workers of a search, cores of a run.


@pytest.mark.parametrize("name", ["--threads", "--cores", "workers"])
@pytest.mark.parametrize("count", [-1, 0, 5_000, 100_000])
def test_no_more_processes_than_cores(name: str, count: int) -> None:
    refused(ConfigError, f"{name} {count}: this machine runs 1 to", require_cores, name, count)


# 5 and 9. A key that is there twice, in JSON as in YAML; a record that is not whole; 1. times of other bits.


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="key 'a' is there twice"):
        parse_json('{"b": [{"a": 1, "a": 2}]}')
    refused(ConfigError, "key 'a' is there twice", parse_json_object, '{"a": 1, "a": 2}', "--options")


@pytest.mark.parametrize("measured", [None, [{}], [1], "x"])
def test_a_record_of_a_benchmark_that_is_not_whole_is_one_line(measured: Any) -> None:
    refused(DataError, "is not whole", text_of, {"bench": "ranges", "measured": measured})


@pytest.mark.parametrize("content", [{"quantization_config": {}}, {"format": 4, "sites": {}}])
def test_a_quantized_model_is_named_where_weights_are_wanted(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    refused(CheckpointError, "holds a quantized model", read_folder, tmp_path)


def test_times_of_other_bits_are_no_budget(tmp_path: Path) -> None:
    entry = {"inputs": 48, "outputs": 48, "group_size": 8, "seconds": {"minimum": 1e-6}}
    record = {"format": 1, "bench": "latency", "backend": "avx2", "rows": 8, "weight_bits": 4, "activation_bits": 8}
    (tmp_path / "times.json").write_text(json.dumps(record | {"measured": [entry]}), encoding="utf-8")
    flags = {"bits": "w8a8", "sizes": "8", "reference_size": 8, "images": 8, "chunk": 8, "metric": "fd_fp"}
    flags |= {"reference_file": None, "extractor": ("x", tmp_path), "sampling": ("ddim", 2, 1.0, 0)}
    job = make_job(tmp_path, **flags, as_released=False, latency=tmp_path / "times.json")  # type: ignore[arg-type]
    refused(ConfigError, "was measured at w4a8, the search is at w8a8", job.measured_latency)
