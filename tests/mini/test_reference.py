"""References of the miniatures: chosen by the name of the data set; that of clothes is shipped."""

from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import ConfigError, DataError
from qdit.core.files import sha256_file
from qdit.metrics.reference import Reference, load_reference
from qdit.metrics.statistics import moments
from qdit.mini.reference import make_mini_reference
from tests.mini.clothes import WITH_DATA

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


@pytest.fixture(scope="module")
def shipped() -> Reference:
    """The shipped reference of clothes."""
    return load_reference(WEIGHTS / "fashion-mnist-reference.npz")


def test_the_shipped_reference_is_of_ten_thousand_images_and_the_shipped_classifier(shipped: Reference) -> None:
    assert shipped.origin is not None and shipped.pool_features is not None and shipped.spatial is not None
    assert shipped.origin.source == "fashion-mnist"
    assert shipped.origin.extractor == "fashion-classifier"
    assert shipped.extractor_digest == sha256_file(WEIGHTS / "fashion-classifier.safetensors")
    assert shipped.pool_features.shape == (10_000, 64)
    found = moments(shipped.pool_features)
    np.testing.assert_allclose(shipped.pool.mean, found.mean, rtol=1e-6)
    np.testing.assert_allclose(shipped.pool.covariance, found.covariance, rtol=1e-6, atol=1e-9)
    assert (WEIGHTS / "fashion-mnist-reference.npz").stat().st_size < 12_000_000


@WITH_DATA
def test_the_shipped_reference_is_made_again_from_the_photographs(shipped: Reference, tmp_path: Path) -> None:
    weights = WEIGHTS / "fashion-classifier.safetensors"
    make_mini_reference("fashion-mnist", "fashion-classifier", weights, tmp_path / "reference.npz")
    found = load_reference(tmp_path / "reference.npz")
    assert found.origin is not None and shipped.origin is not None
    assert found.origin.source_sha256 == shipped.origin.source_sha256
    np.testing.assert_allclose(found.pool_features, shipped.pool_features, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.pool.covariance, shipped.pool.covariance, rtol=1e-3, atol=1e-3)
