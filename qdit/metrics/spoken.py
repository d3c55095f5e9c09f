"""The lines that a command prints at its end: what it made, and the main number."""

from pathlib import Path

from safetensors import safe_open

from qdit.core.files import METADATA_KEY, parse_json
from qdit.core.metrics import METRICS
from qdit.core.metrics_record import MetricsRecord, Status, read_record
from qdit.core.ranking import EQUAL, is_equal, ranking_metric
from qdit.metrics.samples import listed_shards
from qdit.quant.folder import read_config, read_failure
from qdit.quant.size import size_actual_mb

PAIRED = tuple(dict.fromkeys((ranking_metric().name, "fd_fp", "mse_fp")))
MAIN = ("fid", "total", "mfvd", *PAIRED)
"""Metrics that `qdit evaluate` shows, where the run has them."""
NO_FULL_PRECISION = (
    "not computed: they need full precision's samples of the same noise. Quantize the same weights with --method fp"
    " --bits w16a16, sample them with the same options, and give that folder as --fp-samples"
)


def megabytes(size: float) -> str:
    """Text of a number of bytes as MB with two or three digits."""
    return f"{size / 1e6:.3g} MB"


def calibration_line(path: Path) -> str:
    """Line about a file of calibration data: kind, number and shape of the noisy samples, and size."""
    with safe_open(path, framework="np") as data:
        shape = data.get_slice("x").get_shape()
        facts = parse_json((data.metadata() or {}).get(METADATA_KEY, "{}"))
    kind = "clips" if len(shape) == 5 else "images"
    sizes = " × ".join(map(str, shape[1:]))
    return f"{path}: {shape[0]} noisy {kind} of {sizes}, kind {facts.get('kind')}, {megabytes(path.stat().st_size)}"


def checkpoint_line(folder: Path) -> str:
    """Line about a checkpoint: method, bits, number of quantized sites, and size; or the reason why there is none."""
    if failure := read_failure(folder):
        return f"{folder}: no checkpoint: {failure.text}"
    config = read_config(folder)
    record = config["record"]  # empty for a checkpoint that was saved without one
    method = f"{record['method']} W{record['weight_bits']}A{record['activation_bits']}, " if record else ""
    return f"{folder}: {method}{len(config['sites'])} sites quantized, {size_actual_mb(folder):.2f} MB"


def samples_line(folder: Path) -> str:
    """Line about a folder of samples: how many are finished, how many are required, and the protocol.

    If sampling failed, it is the recorded failure.
    """
    shards = listed_shards(folder)
    if failure := next((shard.failure for shard in shards if shard.failure), None):
        return f"{folder}: no samples: {failure.text}"
    first = shards[0]
    finished = min(sum(len(shard.chunks) for shard in shards) * first.chunk, first.images)
    origin = first.origin if isinstance(first.origin, dict) else {}
    facts = origin.get("protocol", {})
    protocol_parts = [
        f"{facts[name]} {word}".strip() for name, word in (("sampler", ""), ("steps", "steps")) if name in facts
    ]
    kind = "clips" if origin.get("family") == "stdit3" else "images"
    return ", ".join([f"{folder}: {finished} of {first.images} {kind}", *protocol_parts])


def metrics_lines(path: Path) -> list[str]:
    """Lines with the main numbers of a metrics.json and their intervals, and the metrics that cannot be computed."""
    record = read_record(path)
    if record.status != Status.OK:
        return [f"{path}: no numbers: {record.error}"]
    kind = "clips" if record.is_of_clips else "images"
    names = [name for name in MAIN if record.metrics.get(name) is not None]
    count = record.protocol.get("images", record.protocol.get("clips"))
    lines = [f"{path}: {f'{count} ' if count else ''}{kind}", *(f"  {metric_text(record, name)}" for name in names)]
    if is_equal(record.metrics):
        lines.append(f"  the samples are {EQUAL}’s")
    if all(record.metrics.get(name) is None for name in PAIRED):
        lines.append(f"  {', '.join(METRICS[name].title for name in PAIRED)}: {NO_FULL_PRECISION}")
    if record.intervals:
        lines.append(
            f"  95 % intervals of all metrics: {path}; the values behind them: {path.parent / 'bootstrap.npz'}"
        )
    return lines


def metric_text(record: MetricsRecord, name: str) -> str:
    """Text such as `PSNR-FP 40.12 dB, 95 % interval 39.80 to 40.40`."""
    metric, value = METRICS[name], record.metrics[name]
    assert value is not None
    text = f"{metric.title} {metric.text(value)}"
    bounds = record.intervals.get(name)
    return text + (f", 95 % interval {' to '.join(map(metric.write, bounds))}" if bounds else "")
