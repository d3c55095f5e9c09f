"""References of the digits: chosen by the name of the data set, and of all its images."""

from pathlib import Path

import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.metrics.reference import load_reference
from qdit.mini.reference import make_mini_reference

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.mark.parametrize("suffix", ["", "-16"])
def test_a_reference_holds_all_digits_of_its_data_set(suffix: str, tmp_path: Path) -> None:
    out, weights = tmp_path / "reference.npz", WEIGHTS / f"digit-classifier{suffix}.safetensors"
    make_mini_reference(f"digits{suffix}", f"digit-classifier{suffix}", weights, out)
    found = load_reference(out)
    assert found.pool_features is not None
    assert found.pool_features.shape == (1797, 64)


def test_data_and_extractor_must_fit(tmp_path: Path) -> None:
    weights = WEIGHTS / "digit-classifier.safetensors"
    with pytest.raises(DataError, match="allowed is \\(N, 1, 8, 8\\)"):
        make_mini_reference("digits-16", "digit-classifier", weights, tmp_path / "reference.npz")
    with pytest.raises(ConfigError, match="unknown data set 'digts'"):
        make_mini_reference("digts", "digit-classifier", weights, tmp_path / "reference.npz")
