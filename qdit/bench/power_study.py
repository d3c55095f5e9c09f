"""Power study: the share of method pairs that a metric separates, against the number of images.

The study reads the features and images of the rows of a run. It takes the first n images of each row and resamples them
as `qdit evaluate` does. It compares rows of equal setting, form, scope and bits. A metric separates a pair of rows if
the 95 % interval of their paired difference excludes 0. There is no correction for the number of pairs.

**Rule.** The rule says by which metric tables should rank. For each metric the shares are averaged over all numbers of
images up to 128; most rows of the mini profile have 128. The rule considers the paired metrics for which at least 95 %
of the separated pairs have the same order as with all images. It takes the one with the largest mean share. If several
are within two percentage points of the largest, it takes the one whose column comes first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from qdit.core.digest import code_digest
from qdit.core.errors import DataError
from qdit.core.intervals import centred, interval
from qdit.core.metrics import METRICS, metric_names, of_images, resolve
from qdit.core.metrics_record import FILE, MetricsRecord, Status, read_record
from qdit.core.provenance import commit, machine, packages
from qdit.core.run import FULL_PRECISION_METHOD, SIMULATE
from qdit.metrics.bootstrap import RESAMPLES, multiplicities
from qdit.metrics.features import RunFeatures, read_features
from qdit.metrics.images import FullPrecision, Images
from qdit.metrics.paired import PixelComparison
from qdit.metrics.reference import load_reference
from qdit.metrics.run import compared_pixels

SIZES = (8, 16, 32, 64, 128, 256, 512)
COUNTED_UP_TO = 128
CLOSE = 0.02
CONSISTENT = 0.95


@dataclass(frozen=True)
class MeasuredRow:
    """A row that was measured in a run: its folder and its record."""

    folder: Path
    record: MetricsRecord

    @property
    def images(self) -> int:
        """Number of images of the row."""
        return int(self.record.protocol["images"])

    @property
    def group(self) -> tuple[str, ...]:
        """Setting, form, scope and bits. Only rows that agree in all four are compared."""
        run = self.record.of
        return run.setting, run.form, run.scope, run.bits

    @property
    def is_full_precision(self) -> bool:
        """Whether the row is full precision."""
        return self.record.run["method"] == FULL_PRECISION_METHOD


def metrics_studied() -> tuple[str, ...]:
    """Names of FID and of all paired metrics of images that have resampled values."""
    return metric_names(lambda m: of_images(m) and bool(m.resampled) and (m.paired or m.name == "fid"))


def rows_of(results: Path) -> list[MeasuredRow]:
    """Find the measured rows of images in a results folder, in the order of their paths. Only replicate 0 counts."""
    rows = []
    for path in sorted((results / "runs").glob(f"*/*/*/*/{FILE}")):
        try:
            record = read_record(path)
        except DataError:
            continue
        if record.status == Status.OK and record.mode == SIMULATE and not record.is_of_clips and not record.replicate:
            rows.append(MeasuredRow(path.parent, record))
    return rows


def groups_of(rows: Sequence[MeasuredRow], settings: Sequence[str] = ()) -> dict[tuple[str, ...], list[MeasuredRow]]:
    """Group → its quantized rows, for groups of at least two rows. If `settings` are given, only those count."""
    groups: dict[tuple[str, ...], list[MeasuredRow]] = {}
    for row in rows:
        if not row.is_full_precision and (not settings or row.group[0] in settings):
            groups.setdefault(row.group, []).append(row)
    return {group: of for group, of in groups.items() if len(of) > 1}


def power_study(results: Path, *, settings: Sequence[str] = (), sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Run the study on the rows below `results`. Return shares by metric and number of images, and the chosen metric.

    The result is JSON. DataError without two rows that can be compared, also for one of the `settings`.
    """
    rows = rows_of(results)
    full = {row.group[:3]: row for row in rows if row.is_full_precision}
    groups = {group: of for group, of in groups_of(rows, settings).items() if group[:3] in full}
    if not groups:
        raise DataError(f"{results}/runs: has no two measured rows of one setting and bits; run the profile first")
    if lacking := sorted(set(settings) - {group[0] for group in groups}):
        known = ", ".join(dict.fromkeys(group[0] for group in groups))
        raise DataError(f"--setting {lacking[0]}: {results}/runs has no two measured rows of it; others are {known}")
    counts: dict[str, dict[int, list[int]]] = {name: {} for name in metrics_studied()}
    described = []
    for group, members in groups.items():
        described.append({"setting": group[0], "form": group[1], "bits": group[3], "rows": len(members)})
        of_group = separations(results, members, full[group[:3]], sizes)
        for (name, size), tally in of_group.items():
            total = counts[name].setdefault(size, [0, 0, 0])
            counts[name][size] = [a + b for a, b in zip(total, tally, strict=True)]
    return {
        "plan": {"sizes": list(sizes), "counted_up_to": COUNTED_UP_TO, "resamples": RESAMPLES, "groups": described},
        "metrics": {name: entries(of) for name, of in counts.items() if of},
        "chosen": chosen({name: entries(of) for name, of in counts.items() if of}),
        "code": code_digest("qdit.bench.power_study"),
        "commit": commit(),
        "machine": machine(),
        "packages": packages(),
    }


def entries(counts: dict[int, list[int]]) -> list[dict[str, Any]]:
    """For each number of images: the share of pairs that are separated, and the share of these in the right order.

    A pair of methods is separated if its difference is more than chance. The right order is the one that all images
    give. `counts` maps a number of images to three numbers of pairs: all, separated, separated in the right order.
    """
    return [
        {"images": size, "pairs": pairs, "share": apart / pairs, "consistent": same / apart if apart else None}
        for size, (pairs, apart, same) in sorted(counts.items())
        if pairs
    ]


def mean_share(measured: Sequence[dict[str, Any]]) -> float:
    """Mean share of separated pairs of a metric, over the numbers of images that the rule counts."""
    return float(np.mean([entry["share"] for entry in measured if entry["images"] <= COUNTED_UP_TO] or [0.0]))


def is_consistent(measured: Sequence[dict[str, Any]]) -> bool:
    """Whether enough separated pairs (95 %) have the same order as with all images."""
    separated = sum(entry["share"] * entry["pairs"] for entry in measured)
    same = sum(entry["share"] * entry["pairs"] * (entry["consistent"] or 0.0) for entry in measured)
    return separated > 0 and same / separated >= CONSISTENT


def chosen(measured: dict[str, list[dict[str, Any]]]) -> str | None:
    """Name of the paired metric that the rule chooses for ranking. None if no metric qualifies."""
    shares = {name: mean_share(of) for name, of in measured.items() if METRICS[name].paired and is_consistent(of)}
    best = max(shares.values(), default=0.0)
    return next((name for name in METRICS if name in shares and shares[name] >= best - CLOSE), None)


def separations(
    results: Path, members: Sequence[MeasuredRow], full: MeasuredRow, sizes: Sequence[int]
) -> dict[tuple[str, int], list[int]]:
    """Count the pairs of a group's rows: (metric, number of images) → number of all, separated and consistent pairs.

    A separated pair is consistent if its order is the one that all images give.
    """
    images = min(row.images for row in (*members, full))
    values = [resampled(results, row, full, [*(n for n in sizes if n < images), images]) for row in members]
    tallies: dict[tuple[str, int], list[int]] = {}
    for first, second in combinations(values, 2):
        for (name, size), (value, samples) in first.items():
            if (name, size) not in second or (name, images) not in second or (name, images) not in first:
                continue
            other, other_samples = second[name, size]
            limits = interval(samples - other_samples)
            is_apart = not limits[0] <= 0 <= limits[1]
            order = np.sign(first[name, images][0] - second[name, images][0])
            tally = tallies.setdefault((name, size), [0, 0, 0])
            tally[0] += 1
            tally[1] += is_apart
            tally[2] += bool(is_apart and np.sign(value - other) == order)
    return tallies


def resampled(
    results: Path, row: MeasuredRow, full: MeasuredRow, sizes: Iterable[int]
) -> dict[tuple[str, int], tuple[float, np.ndarray]]:
    """Metrics of one row on its first images: (metric, number of images) → value, and B resampled values around it."""
    evaluator, reference = row.record.protocol["evaluator"], row.record.protocol["reference"]
    real = load_reference(results / "reference" / evaluator["name"] / f"{reference['name']}.npz")
    count = min(row.images, full.images)
    run, fp_run = (
        read_features(
            of.folder / "samples", images=of.images, extractor=evaluator["name"], weights_sha256=evaluator["sha256"]
        )
        for of in (row, full)
    )
    pixels = compared_pixels(row.folder / "samples", full.folder / "samples", count)
    values: dict[tuple[str, int], tuple[float, np.ndarray]] = {}
    for size in sizes:
        images = Images(_first(run, size), real, FullPrecision(_first(fp_run, size), _first_pixels(pixels, size)))
        counts = multiplicities(size, RESAMPLES)
        for name in metrics_studied():
            metric = METRICS[name]
            value, samples = resolve(metric.function)(images), resolve(metric.resampled)(images, counts)
            if value is not None and samples is not None:
                values[name, size] = float(value), centred(name, value, samples)
    return values


def _first(run: RunFeatures, images: int) -> RunFeatures:
    layers = {name: getattr(run.features, name)[:images] for name in ("pool", "spatial", "logits")}
    return replace(run, features=replace(run.features, **layers), labels=run.labels[:images])


def _first_pixels(pixels: PixelComparison, images: int) -> PixelComparison:
    return replace(pixels, errors=pixels.errors[:images], psnr=pixels.psnr[:images], ssim=pixels.ssim[:images])
