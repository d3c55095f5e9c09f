"""Damaged and invented files: 10,000 examples end in a value or in one line, never in another exception.

`pytest -m slow tests/faults/test_fuzz.py`; hypothesis draws them, without a database, from the seed below.
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save

from qdit.core.errors import QditError
from qdit.core.files import load_arrays, load_tensors, read_json
from qdit.core.metrics import DIMENSIONS
from qdit.metrics.image_files import open_images
from qdit.metrics.reference import load_reference
from qdit.metrics.vbench.results import gather
from qdit.models.loading import load_model
from tests.small_models import random_dit

SEED = 17


def fuzzed(count: int) -> Callable[[Any], Any]:
    """`count` examples from the fixed seed."""
    chosen = settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
    )
    return lambda test: pytest.mark.slow(seed(SEED)(chosen(test)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def safetensors_bytes() -> bytes:
    model = random_dit()
    metadata = {"qdit": json.dumps({"model": model.config.to_dict()})}
    return save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, metadata)


def npz_bytes() -> bytes:
    data, draw = io.BytesIO(), np.random.default_rng(0)
    statistics = {"mu": np.zeros(4), "sigma": np.eye(4), "mu_s": np.zeros(4), "sigma_s": np.eye(4)}
    np.savez_compressed(data, arr_0=draw.integers(0, 256, (6, 8, 8, 1), dtype=np.uint8), **statistics)
    return data.getvalue()


WEIGHTS, BATCH = safetensors_bytes(), npz_bytes()
HEADER = 8 + int.from_bytes(WEIGHTS[:8], "little")


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, most: int) -> bytes:
    """Some bytes changed among the first `most`, perhaps cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, most - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


def one_line_or_value(name: str, data: bytes, *readers: Callable[[Path], object]) -> None:
    """Each reader gives a value or raises a QditError of one line; any other exception fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        for reader in readers:
            try:
                reader(path)
            except QditError as problem:
                assert "\n" not in str(problem) and str(path) in str(problem)


@fuzzed(2500)
@given(damaged(WEIGHTS, HEADER))
def test_headers_of_safetensors(data: bytes) -> None:
    one_line_or_value("x.safetensors", data, load_tensors, load_model)


@fuzzed(1000)
@given(st.dictionaries(st.text(max_size=6), JSON, max_size=3), st.binary(max_size=40))
def test_invented_headers_of_safetensors(header: dict[str, Any], rest: bytes) -> None:
    text = json.dumps(header).encode()
    one_line_or_value("x.safetensors", len(text).to_bytes(8, "little") + text + rest, load_tensors, load_model)


@fuzzed(500)
@given(JSON)
def test_invented_configurations(config: Any) -> None:
    data = save({"a": torch.zeros(1)}, {"qdit": json.dumps({"model": config, "family": "dit"})})
    one_line_or_value("x.safetensors", data, load_model)


@fuzzed(3000)
@given(damaged(BATCH, len(BATCH)))
def test_batches(data: bytes) -> None:
    one_line_or_value("x.npz", data, load_arrays, load_reference, lambda path: list(open_images(path).blocks()))


@fuzzed(1000)
@given(st.text(st.characters(codec="ascii"), max_size=60), st.binary(max_size=60))
def test_invented_headers_of_arrays(header: str, rest: bytes) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        text = header.encode()
        archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest)
    one_line_or_value("x.npz", data.getvalue(), load_arrays, lambda path: list(open_images(path).blocks()))


RESULT = {
    "dimension": st.sampled_from(DIMENSIONS),
    "score": st.floats(0, 1) | JSON,
    "clips": st.dictionaries(st.text(max_size=4), st.floats(0, 1) | JSON, max_size=2) | JSON,
    "skipped": st.lists(st.text(max_size=4), max_size=1) | JSON,
    "samples": st.just(1) | JSON,
    "suite_sha256": st.just("0") | JSON,
    "clips_sha256": st.dictionaries(st.text(max_size=4), JSON, max_size=2) | JSON,
    "weights_sha256": st.just({}) | JSON,
    "packages": st.just({}) | JSON,
}


@fuzzed(1500)
@given(st.fixed_dictionaries(RESULT))
def test_results_of_vbench(found: dict[str, Any]) -> None:
    def gathered(path: Path) -> None:
        result = gather([path])
        assert all(-1.000001 <= score <= 1.000001 for score in result["scores"].values())

    one_line_or_value("x.json", json.dumps(found).encode(), gathered)


@fuzzed(500)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_json(data: bytes) -> None:
    one_line_or_value("x.json", data, read_json, lambda path: gather([path]))
