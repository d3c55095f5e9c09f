"""Every step at DiT-XL/2's shapes with random weights, each in a process of its own, below 16 GiB (opt-in)."""

from pathlib import Path

import pytest

from qdit.bench.full_size import LIMIT, line, measure_part
from qdit.bench.full_size_parts import FULL, parts
from tests.full_size.expected import VAE_PARAMETERS, faults

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the real shapes, made once, and what each part leaves (15 GB)."""
    return tmp_path_factory.mktemp("full-size")


@pytest.mark.parametrize("part", parts())
def test_at_the_real_shapes(part: str, folder: Path) -> None:
    entry = measure_part(part, folder)
    print(line(part, entry), flush=True)
    assert faults(part, entry["facts"], FULL) == []
    assert entry["peak_bytes"] < LIMIT
    if part == "weights":
        assert entry["facts"]["vae_parameters"] == VAE_PARAMETERS
