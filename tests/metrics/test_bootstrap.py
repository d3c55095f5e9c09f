"""Resampled metrics: exact where nothing is resampled, against brute force, and the coverage of their intervals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdit.core.errors import DataError
from qdit.core.intervals import FILE, Resamples, centred, interval, read_resamples, write_resamples
from qdit.metrics import bootstrap as module
from qdit.metrics.bootstrap import bootstrap, intervals, multiplicities, pairing
from qdit.metrics.evaluate import evaluate
from qdit.metrics.features import Extraction, Features, RunFeatures
from qdit.metrics.frechet import frechet_distance
from qdit.metrics.images import FullPrecision
from qdit.metrics.paired import PixelComparison, psnr_of
from qdit.metrics.reference import Reference
from qdit.metrics.resampled_frechet import to_reference
from qdit.metrics.statistics import Moments, moments

MADE_BY = Extraction("gaussian", "w", True, "c")
NAMES = {"fid", "sfid", "is", "precision", "class_accuracy", "fd_fp", "mse_fp", "mind_fp", "psnr_fp", "ssim_fp", "mind"}
FIRST_ORDER = {"mind_fp", "mind"}


def run_of(pool: np.ndarray, seed: int = 0) -> RunFeatures:
    draw = np.random.default_rng(seed)
    spatial = np.concatenate([pool[:, :2], draw.normal(size=(len(pool), 3))], axis=1)
    logits = draw.normal(size=(len(pool), 4)) * 3
    return RunFeatures(Features(pool, spatial, logits), draw.integers(4, size=len(pool)), MADE_BY)


def reference_of(size: int, images: int = 300) -> Reference:
    draw = np.random.default_rng(9)
    pool, spatial = draw.normal(size=(images, size)), draw.normal(size=(images, 5))
    return Reference(moments(pool), moments(spatial), pool, "")


def pair(images: int, size: int, *, seed: int = 0, damage: float = 0.2) -> tuple[RunFeatures, FullPrecision]:
    """A run and full precision of the same noise."""
    draw = np.random.default_rng(seed)
    full = draw.normal(size=(images, size))
    gap = damage * draw.normal(size=full.shape)
    own = run_of(full + gap, seed)
    return own, FullPrecision(replace(own, features=replace(own.features, pool=full)), pixels((gap**2).mean(axis=1)))


def pixels(errors: np.ndarray) -> PixelComparison:
    """A comparison with these errors, as images of 64 values would have; SSIM falls with the error."""
    return PixelComparison(errors, psnr_of(errors, 64), 1 / (1 + errors), 7)


def test_every_image_once_gives_the_metrics_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    run, fp = pair(60, 6)
    reference = reference_of(6)
    monkeypatch.setattr(module, "multiplicities", lambda images, resamples, frames: np.ones((2, images), int))
    found, measured = bootstrap(run, reference=reference, fp=fp, resamples=2), evaluate(run, reference=reference, fp=fp)
    assert set(found.values) == NAMES
    for name, values in found.values.items():
        assert values == pytest.approx([measured[name]] * 2, rel=1e-9), name


def test_resamples_are_those_of_images_repeated_in_memory() -> None:
    run, fp = pair(40, 5)
    reference, counts = reference_of(5), multiplicities(40, 3)
    found = bootstrap(run, reference=reference, fp=fp, resamples=3).values
    for row, index in enumerate(np.repeat(np.arange(40), times) for times in counts):
        layers = [layer[index] for layer in (run.features.pool, run.features.spatial, run.features.logits)]
        again = replace(run, features=Features(*layers), labels=run.labels[index])
        full = replace(fp.run, features=replace(again.features, pool=fp.run.features.pool[index]), labels=again.labels)
        measured = evaluate(again, reference=reference, fp=FullPrecision(full, pixels(fp.pixels.errors[index])))
        for name in NAMES - FIRST_ORDER:
            assert found[name][row] == pytest.approx(measured[name], rel=1e-7), name


def test_fewer_images_than_features_and_constant_features() -> None:
    run, fp = pair(12, 20)
    run.features.pool[:, 3] = 1.0
    reference = reference_of(20)
    values = bootstrap(run, reference=reference, fp=fp, resamples=4).values
    row = multiplicities(12, 4)[0]
    repeated = moments(np.repeat(run.features.pool, row, axis=0))
    expected = frechet_distance(repeated, reference.pool)
    assert values["fid"][0] == pytest.approx(expected, rel=1e-5) and np.isfinite(values["fd_fp"]).all()


def test_every_resample_has_as_many_images_and_each_split_its_own() -> None:
    counts = multiplicities(7, 50)
    assert counts.shape == (50, 7) and set(counts.sum(axis=1)) == {7}
    assert np.array_equal(counts, multiplicities(7, 50)) and len(np.unique(counts, axis=0)) > 45
    large = multiplicities(module.SPLIT_SIZE + 10, 2)
    assert (large[:, : module.SPLIT_SIZE].sum(axis=1) == module.SPLIT_SIZE).all() and (large.sum(axis=1) == 5010).all()


def test_the_name_of_a_drawing_tells_other_drawings_apart() -> None:
    names = {pairing(multiplicities(images, resamples)) for images in (20, 21) for resamples in (5, 6)}
    assert len(names) == 4 and pairing(multiplicities(20, 5)) in names


def test_full_precision_is_at_distance_zero_from_itself() -> None:
    run, _ = pair(30, 4)
    values = bootstrap(run, reference=reference_of(4), fp=FullPrecision(run, pixels(np.zeros(30))), resamples=5).values
    assert not values["fd_fp"].any() and not values["mse_fp"].any() and not values["mind_fp"].any()
    assert (values["ssim_fp"] == 1).all() and "psnr_fp" not in values


def test_lpips_is_the_mean_over_images_where_a_network_compared_them() -> None:
    run, fp = pair(30, 4)
    distances, counts = np.linspace(0, 1, 30), multiplicities(30, 5)
    fp = replace(fp, lpips=distances)
    assert evaluate(run, reference=reference_of(4), fp=fp)["lpips_fp"] == pytest.approx(0.5)
    values = bootstrap(run, reference=reference_of(4), fp=fp, resamples=5).values["lpips_fp"]
    assert values == pytest.approx([np.repeat(distances, times).mean() for times in counts])


def test_what_a_run_lacks_has_no_interval() -> None:
    run, _ = pair(30, 4)
    nameless = replace(run, made_by=replace(MADE_BY, classes_are_labels=False))
    reference = replace(reference_of(4), pool_features=None)
    values = bootstrap(nameless, reference=reference, fp=None, resamples=5).values
    assert set(values) == {"fid", "sfid", "is"}


def test_intervals_lie_around_the_measured_values() -> None:
    run, fp = pair(100, 5)
    reference = reference_of(5)
    metrics = evaluate(run, reference=reference, fp=fp)
    found = intervals(metrics, bootstrap(run, reference=reference, fp=fp, resamples=100))
    assert set(found) == NAMES
    for name, (low, high) in found.items():
        assert low <= metrics[name] <= high and low < high, name  # type: ignore[operator]
    assert set(
        intervals(metrics | {"fd_fp": None}, bootstrap(run, reference=reference, fp=fp, resamples=5))
    ) == NAMES - {"fd_fp"}


def test_the_shift_is_for_distances_and_not_for_means() -> None:
    values = np.array([1.0, 2.0, 6.0])
    assert centred("fid", 2.0, values).mean() == 2.0 and np.array_equal(centred("precision", 2.0, values), values)
    assert interval(np.arange(101.0), level=0.9) == pytest.approx((5.0, 95.0))


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_intervals_of_the_distance_cover_what_this_many_images_give(shift: float) -> None:
    """150 experiments: at shift 0 plain percentiles nearly always miss what 100 images give on average."""
    size, images, experiments = 8, 100, 150
    unit = Moments(np.zeros(size), np.eye(size))
    draw, counts = np.random.default_rng(1), multiplicities(images, 100)
    measured, limits, plain = [], [], []
    for _ in range(experiments):
        sample = draw.normal(size=(images, size)) * (1 + shift / 2) + shift / 2
        resampled = to_reference(sample, counts, unit)
        measured.append(frechet_distance(moments(sample), unit))
        limits.append(interval(centred("fid", measured[-1], resampled)))
        plain.append(interval(resampled))
    truth = np.mean(measured)
    covered, naive = (np.mean([low <= truth <= high for low, high in of]) for of in (limits, plain))
    assert covered >= 0.9
    assert naive < 0.3 or shift > 0


def test_paired_differences_are_far_narrower_than_unpaired_ones() -> None:
    """Two methods of one noise: what they share cancels, and the better one is told apart."""
    reference = reference_of(5)
    runs = [pair(150, 5, seed=3, damage=damage)[0] for damage in (0.3, 0.5)]
    fids = [evaluate(run, reference=reference, fp=None)["fid"] for run in runs]
    resampled = [bootstrap(run, reference=reference, fp=None, resamples=100) for run in runs]
    a, b = (centred("fid", value, r.values["fid"]) for value, r in zip(fids, resampled, strict=True))  # type: ignore[arg-type]
    paired, alone = interval(b - a), interval(b - np.roll(a, 1))
    assert resampled[0].pairing == resampled[1].pairing
    assert paired[0] > 0 and paired[1] - paired[0] < 0.8 * (alone[1] - alone[0])


def test_the_file_is_read_back_and_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    resampled = Resamples({"fid": np.arange(3.0)}, "3x5-abc")
    written = []
    for name in ("a", "b"):
        write_resamples(tmp_path / name, resampled)
        written.append((tmp_path / name / FILE).read_bytes())
    found = read_resamples(tmp_path / "a")
    assert found is not None and found.pairing == "3x5-abc" and np.array_equal(found.values["fid"], np.arange(3.0))
    assert written[0] == written[1]


def test_a_failed_run_has_no_values_and_a_wrong_file_is_one_clear_line(tmp_path: Path) -> None:
    assert read_resamples(tmp_path) is None
    write_resamples(tmp_path, Resamples({}, "none"))
    assert read_resamples(tmp_path) is None
    write_resamples(tmp_path, Resamples({"fid": np.array([1.0, np.nan])}, "x"))
    with pytest.raises(DataError, match="run `qdit evaluate` again"):
        read_resamples(tmp_path)
