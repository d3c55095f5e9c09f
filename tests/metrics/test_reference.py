"""References of ours and of ADM: statistics, streaming of a member that is never read whole, refusals."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.files import load_arrays, save_arrays, sha256_file
from qdit.core.npz import stream_member
from qdit.metrics.features import Features, Images
from qdit.metrics.reference import build_reference, import_adm_reference, load_reference, save_reference
from qdit.metrics.statistics import moments


class MeanColours:
    """An extractor simple enough to know its features: the mean of each channel, and its double."""

    name = "mean-colours"
    digest = "0123456789abcdef"
    classes_are_labels = False

    def __init__(self) -> None:
        self.largest_batch = 0

    def __call__(self, images: Images) -> Features:
        values = np.asarray(images)
        assert values.dtype == np.uint8
        assert values.shape[1] == 3, "channels first"
        self.largest_batch = max(self.largest_batch, len(values))
        pool = values.mean(axis=(2, 3), dtype=np.float32)
        return Features(pool, 2 * pool[:, :2], pool)


def pictures(count: int) -> np.ndarray:
    """(N, H, W, C) as ADM stores them."""
    return np.random.default_rng(0).integers(0, 256, size=(count, 4, 5, 3), dtype=np.uint8)


@pytest.fixture
def adm_file(tmp_path: Path) -> Path:
    path = tmp_path / "VIRTUAL.npz"
    draw = np.random.default_rng(1)
    np.savez(
        path,
        mu=draw.normal(size=3).astype(np.float32),
        sigma=np.eye(3, dtype=np.float32),
        mu_s=draw.normal(size=2),
        sigma_s=np.eye(2),
        arr_0=pictures(150),
    )
    return path


def test_build_save_load_is_the_same_reference(tmp_path: Path) -> None:
    extractor = MeanColours()
    images = pictures(20).transpose(0, 3, 1, 2)
    built = build_reference(images, extractor)
    save_reference(tmp_path / "r.npz", built)
    loaded = load_reference(tmp_path / "r.npz")
    np.testing.assert_array_equal(loaded.pool.covariance, built.pool.covariance)
    np.testing.assert_array_equal(loaded.spatial.mean, moments(extractor(images).spatial).mean)
    assert loaded.pool_features is not None
    np.testing.assert_array_equal(loaded.pool_features, extractor(images).pool)
    assert loaded.extractor_digest == extractor.digest
    with np.load(tmp_path / "r.npz") as data:
        assert {"mu", "sigma", "mu_s", "sigma_s"} <= set(data.files)


def test_an_adm_file_gives_float64_statistics_and_features_of_its_images(adm_file: Path) -> None:
    plain = load_reference(adm_file)
    assert plain.pool.mean.dtype == plain.pool.covariance.dtype == np.float64
    assert plain.pool_features is None
    assert plain.extractor_digest == ""
    extractor = MeanColours()
    full = import_adm_reference(adm_file, extractor)
    np.testing.assert_array_equal(full.pool.mean, plain.pool.mean)
    assert full.pool_features is not None
    np.testing.assert_allclose(full.pool_features, pictures(150).mean(axis=(1, 2)), rtol=1e-5)
    assert extractor.largest_batch < 150, "the images were not streamed"
    assert full.extractor_digest == extractor.digest


def test_an_adm_reference_can_be_saved_once_it_has_features(adm_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="import_adm_reference"):
        save_reference(tmp_path / "r.npz", load_reference(adm_file))
    save_reference(tmp_path / "r.npz", import_adm_reference(adm_file, MeanColours()))
    assert load_reference(tmp_path / "r.npz").pool_features is not None


@pytest.mark.parametrize("rows", [1, 7, 64, 150, 1000])
def test_a_stream_holds_every_row_once(adm_file: Path, rows: int) -> None:
    parts = list(stream_member(adm_file, "arr_0", rows=rows))
    assert {len(part) for part in parts[:-1]} <= {rows}
    np.testing.assert_array_equal(np.concatenate(parts), pictures(150))


def test_loading_statistics_does_not_read_the_images(adm_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.npz"
    with zipfile.ZipFile(adm_file) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data[:200] if name == "arr_0.npy" else data)
    assert load_reference(damaged).pool.mean.shape == (3,)
    with pytest.raises(DataError, match=r"arr_0.npy claims 9000 bytes of uint8 \(150, 4, 5, 3\), the file holds 72"):
        import_adm_reference(damaged, MeanColours())


def test_an_extractor_of_another_width_is_refused(adm_file: Path, tmp_path: Path) -> None:
    with np.load(adm_file) as data:
        arrays = {**data, "mu": np.zeros(5), "sigma": np.eye(5)}
    np.savez(tmp_path / "wide.npz", **arrays)
    with pytest.raises(DataError, match="mu has 5 features, the extractor gives 3"):
        import_adm_reference(tmp_path / "wide.npz", MeanColours())


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("not a zip")
    np.savez(tmp_path / "few.npz", mu=np.zeros(2))
    statistics = {"mu": np.zeros(2), "sigma": np.eye(2), "mu_s": np.zeros(2)}
    np.savez(tmp_path / "pickle.npz", sigma_s=np.array([object()], dtype=object), **statistics)
    np.savez(tmp_path / "shape.npz", sigma_s=np.eye(3), **statistics)
    np.savez(tmp_path / "nan.npz", sigma_s=np.eye(2), **{**statistics, "mu": np.array([0, np.nan])})
    expected = {
        "absent.npz": "no such file",
        "text.npz": "not a readable npz",
        "few.npz": "has no sigma, mu_s, sigma_s",
        "pickle.npz": "not a readable npz",
        "shape.npz": "not statistics of the same features",
        "nan.npz": "1 of 2 values of mu are NaN or infinite",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as caught:
            load_reference(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_reference_carries_what_it_was_made_of(tmp_path: Path, adm_file: Path) -> None:
    images, extractor = pictures(20).transpose(0, 3, 1, 2), MeanColours()
    built = build_reference(images, extractor, source="pictures")
    save_reference(tmp_path / "r.npz", built)
    origin = load_reference(tmp_path / "r.npz").origin
    assert origin is not None and origin == built.origin
    assert (origin.source, origin.extractor, origin.extractor_digest) == ("pictures", extractor.name, extractor.digest)
    other = build_reference(255 - images, extractor, source="pictures").origin
    assert other is not None and other.source_sha256 != origin.source_sha256 and other.code == origin.code
    adm = import_adm_reference(adm_file, extractor).origin
    assert adm is not None and (adm.source, adm.source_sha256) == ("VIRTUAL.npz", sha256_file(adm_file))


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (None, "does not say what the reference was made of"),
        ("{}", "does not say all"),
        ("[1", "does not say all"),
        ('{"code":"","extractor":"","extractor_digest":"ff","source":"","source_sha256":""}', "its origin says ff"),
    ],
)
def test_a_reference_without_its_origin_or_of_another_is_refused(
    tmp_path: Path, origin: str | None, words: str
) -> None:
    save_reference(tmp_path / "r.npz", build_reference(pictures(20).transpose(0, 3, 1, 2), MeanColours()))
    arrays = load_arrays(tmp_path / "r.npz")
    del arrays["origin"]
    save_arrays(tmp_path / "r.npz", arrays if origin is None else arrays | {"origin": np.array(origin)})
    with pytest.raises(DataError, match=words):
        load_reference(tmp_path / "r.npz")
