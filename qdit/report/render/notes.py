"""Write the notes of a table: an explanation of its marks and columns, warnings, and the protocol."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qdit import __version__
from qdit.core.metrics import METRICS, changed
from qdit.core.metrics_record import FLOW, Status
from qdit.core.ranking import is_equal, ranking_metric, why_it_ranks
from qdit.core.run import IMPORTED
from qdit.report.data.metrics_json import Row
from qdit.report.data.replicates import COUNT
from qdit.report.data.rows import Table, describe_protocol, is_full_precision, is_measured, is_missing, samples_word
from qdit.report.render.display import PERFECT, TIED_MARK, bits_words

SHORT = 12
"""Number of characters of a digest on a page; the CSV has the whole digest."""


SCOPES = {
    "common": (
        "Scope common: every method quantizes weights and inputs of the four linear layers of a block. TFMQ-DM also"
        " quantizes the time-embedding block, TQ-DiT the softmax and GELU, which are what these methods are for."
    ),
    "own": "Scope own: every method quantizes all layers that its paper quantizes.",
}


FORMS = {
    "salient": (
        "Natural form: the weights as trained. Salient form: a stress test; the same function, but some input channels"
        " have very large values (docs/miniature.md)."
    ),
}
"""Form → the note of a table that has it."""


@dataclass(frozen=True)
class Notes:
    """Notes of a table in three parts.

    `reading` explains the table. `warnings` names problems. `measured` gives protocol and provenance.
    """

    reading: tuple[str, ...]
    warnings: tuple[str, ...]
    measured: tuple[tuple[str, str], ...]


def notes(table: Table) -> Notes:
    """Return all notes of a table, computed from its rows."""
    return Notes(reading=tuple(_reading(table)), warnings=tuple(_warnings(table)), measured=tuple(_measured(table)))


def _reading(table: Table) -> Iterable[str]:
    other = " In this profile our and the paper’s numbers have different data and models." if table.miniature else ""
    printed = bool(table.paper_protocol)
    if printed:
        yield f"ours: this profile ({table.profile}). paper: as printed ({table.paper_protocol}). “–”: no number."
    if any(metric in changed() for metric in table.metrics):
        yield "In parentheses or signed below a value: the difference to full precision (FP) of the same block" + (
            f"; ours to our FP, the paper’s to the paper’s FP. The CSV also has difference_* = ours − paper.{other}"
            if printed
            else "."
        )
    sample, features = table.samples_are, ", of mFVD’s features" if table.samples_are == "clip" else ""
    distance = f"FD-FP: Fréchet distance to the full-precision samples{features}. "
    paired = "Both are" if (has_distance := "fd_fp" in table.metrics or table.samples_are != "clip") else "It is"
    yield (
        f"{distance if has_distance else ''}MSE-FP: mean squared difference of each {sample}, pixels in [0, 1], to the"
        f" full-precision {sample} of the same index. {paired} paired: all rows share their noise."
    )
    yield from _pixel_notes(table)
    if table.miniature and "fid" in table.metrics:
        yield (
            "On a small, easy data set FID does not always rise with the damage: a quantized row can have a better FID"
            f" than FP. Compare methods by paired metrics, such as {ranking_metric().title}."
        )
    if table.marks_best:
        yield "Bold: the best of our quantized rows at equal bits in a block." + (
            f" {TIED_MARK}: the difference to the best row may be chance (paired bootstrap over {table.samples_are}s"
            f"{' and replicates' if any(map(is_repeated, table.rows)) else ''};"
            " 5 % for all pairs of rows at equal bits together, by Holm). The CSV has the interval of each number,"
            " *_low and *_high."
            if any(row.get("resamples") is not None for row in table.rows)
            else ""
        )
    yield from _replicate_notes(table)
    if "size_mb" in table.metrics:
        yield (
            "Size (ours): by the paper’s formula, every parameter at the weight bits, 4 bytes per group or channel."
            " Size on disk: bytes of the checkpoint. Size (paper): DiT-XL/2. MB = 10⁶ bytes."
        )
    yield from _row_notes(table)
    if table.summary and table.marks_best and ranking_metric().name in table.metrics:
        yield why_it_ranks()  # the headline of other tables says it
    yield from _samples_behind(table)
    yield from table.remarks
    yield from _method_notes(table)
    yield from _reconstruction_notes(table)
    yield from _silent_layer_notes(table)


def _row_notes(table: Table) -> Iterable[str]:
    """Notes that say what bits, form and scope of a row mean."""
    if quantized := next((row for row in table.rows if not is_full_precision(row)), None):
        yield f"{bits_words(quantized)}. W16A16 is full precision (FP)."
    for form in dict.fromkeys(row["form"] for row in table.rows if row["form"] in FORMS):
        yield FORMS[form]
    for scope in dict.fromkeys(row["scope"] for row in table.rows):
        yield SCOPES[scope]


def _replicate_notes(table: Table) -> Iterable[str]:
    """Notes on rows with replicates: what their numbers are, and which intervals contain the spread between runs."""
    if repeated := [row for row in table.rows if is_repeated(row)]:
        counts = " or ".join(str(count) for count in sorted({row[COUNT] for row in repeated}))
        yield (
            f"{len(repeated)} of {len(table.rows)} rows have {counts} replicates: other calibration data, searches and"
            " random draws of the method, on the same noise. Their numbers are means over the replicates. Their"
            " intervals contain the variation between images and between runs. So do the differences of two such rows;"
            " other differences contain only the variation between images. Pictures, size and digests are of"
            " replicate 0."
        )


def is_repeated(row: Row) -> bool:
    """Return whether the numbers of a row are means over replicates."""
    return int(row.get(COUNT) or 1) > 1


def _samples_behind(table: Table) -> Iterable[str]:
    """`Images behind each number of a column: FID, FD-FP 512`, column by column."""
    columns_by_count: dict[str, list[str]] = {}
    for metric in (METRICS[name] for name in table.metrics if name in METRICS):
        counts = {row.get("images") for row in table.rows if row.get(metric.name) is not None} - {None}
        if counts and metric.of not in ("checkpoint", "row"):
            text = " or ".join(f"{count:,}" for count in sorted(int(str(count)) for count in counts))
            columns_by_count.setdefault(text, []).append(metric.title)
    if columns_by_count:
        counts_text = "; ".join(f"{', '.join(titles)}: {count}" for count, titles in columns_by_count.items())
        yield f"{samples_word(table.rows).capitalize()}s behind each number of a column: {counts_text}."


def _pixel_notes(table: Table) -> Iterable[str]:
    """Notes that define MIND, PSNR and SSIM, with the window of the rows."""
    if "mind_fp" in table.metrics:
        reference = "; MIND: the same to the reference" if "mind" in table.metrics else ""
        yield (
            "MIND-FP: sliced Wasserstein distance of features to the full-precision samples (arXiv 2605.06797)"
            f"{reference}."
        )
    if "psnr_fp" in table.metrics:
        windows = sorted({int(row["ssim_window"]) for row in table.rows if row.get("ssim_window") is not None})
        sides = f" in windows of {' or '.join(f'{side} × {side}' for side in windows)} pixels" if windows else ""
        of = "frames of each clip" if table.samples_are == "clip" else "images"
        similar = f" SSIM-FP: mean over the same {of.split()[0]}, with a Gaussian of deviation 1.5{sides}."
        yield (
            f"PSNR-FP (dB): mean over {of}, to full precision’s of the same noise. Full precision itself has an"
            f" infinite PSNR, so its cell is blank.{similar if 'ssim_fp' in table.metrics else ''}"
        )
        if any(is_equal(row) and not is_full_precision(row) for row in table.rows):
            yield f"“{PERFECT}”: all samples of the row are those of full precision, so its PSNR-FP is infinite too."


def _method_notes(table: Table) -> Iterable[str]:
    sizes = {row["group_size"]: row["paper_group_size"] for row in table.rows if row.get("group_size") is not None}
    translated = {ours: paper for ours, paper in sizes.items() if paper not in (None, ours)}
    if translated:
        pairs = ", ".join(f"{ours} here stands for the paper’s {paper}" for ours, paper in sorted(translated.items()))
        yield f"Group sizes: {pairs}; the number of groups per row is the same."
    uniform = [row for row in table.rows if row.get("label") == "q-dit" and row.get("allocation_sha256") is None]
    if any(is_measured(row) for row in uniform):
        yield "Q-DiT here uses one group size for all layers; the paper’s rows use searched ones per layer."
    if any(row.get("fitted") is not None for row in table.rows):
        yield (
            "† fitted: the parameters of the salient form were chosen with this cell, so it is not evidence for the"
            " method."
        )
    for step in dict.fromkeys(row["name"] for row in table.rows if row["state"] == Status.NOT_RUN):
        yield f"“{step}” is not run: this profile has no method for this step."
    if table.unmatched:
        yield f"The paper also prints {', '.join(table.unmatched)}; they are not rows of this table."


def _reconstruction_notes(table: Table) -> Iterable[str]:
    """`TFMQ-DM: 500 iterations per block, batch 32`, once where all rows of a method agree."""
    logs = [(row["name"], row["reconstruction"]) for row in table.rows if row.get("reconstruction") is not None]
    efforts = dict.fromkeys((name, log.iterations, log.batch) for name, log in logs)
    if efforts:
        texts = (f"{name}: {iterations} iterations per block, batch {batch}" for name, iterations, batch in efforts)
        yield f"Reconstruction (learned rounding): {'; '.join(texts)}."
    if rounded := dict.fromkeys(name for name, log in logs if log.matmul == "tf32"):
        yield f"Matrix products in TensorFloat-32 (inputs of ten bits) while learning: {', '.join(rounded)}."


def _silent_layer_notes(table: Table) -> Iterable[str]:
    """`Q-DiT W4A8: blocks.1.mlp.fc2`, layers that no calibration input reaches (pruned ones)."""
    rows = [row for row in table.rows if row.get("rounded_to_nearest")]
    texts = dict.fromkeys(
        f"{row['name']} {row['key'].bits.upper()}: {', '.join(row['rounded_to_nearest'])}" for row in rows
    )
    if texts:
        yield f"Layers rounded to nearest, since all their calibration inputs are zero: {'; '.join(texts)}."


def _warnings(table: Table) -> Iterable[str]:
    yield from table.problems
    for row in table.rows:
        if is_missing(row):
            folder = row["key"].folder(Path()).as_posix()
            yield f"{row['name']} {row['key'].bits.upper()}, {row['form']} form: {row['status']} ({folder})"
    for row in table.rows:
        if row.get("replicates_missing"):
            yield (
                f"{row['name']} {row['key'].bits.upper()}: shows replicate 0 alone, without run-to-run spread; missing"
                f" replicates {row['replicates_missing']}"
            )
        if row.get("log_problem"):
            yield f"{row['name']} {row['key'].bits.upper()}: no learning curves and no log; {row['log_problem']}"
    for block in table.blocks:
        sampled = [row for row in block.rows if is_measured(row) and row["mode"] != IMPORTED]
        protocols = _distinct(sampled, "protocol_sha256")
        if len(protocols) > 1:
            yield f"{block.title}: its rows were measured under {len(protocols)} protocols; measure them again"


def _measured(table: Table) -> Iterable[tuple[str, str]]:
    for version in _distinct(table.rows, "protocol_version") if table.rows else ():
        yield "Protocol version", f"{version}; cite a number of this table as “qdit {__version__}, {version}”"
    rows = [row for row in table.rows if is_measured(row)]
    if not rows:
        yield "Protocol", "no row of this table was measured"
        return
    for setting in _distinct(rows, "setting"):
        of_setting = [row for row in rows if row["setting"] == setting]
        for text in dict.fromkeys(_protocol(row) for row in of_setting):
            yield f"Protocol {setting}", text
    for text in dict.fromkeys(_evaluation(row) for row in rows):
        yield "Evaluation", text
    yield "Mode", "; ".join(dict.fromkeys(_mode(row) for row in rows))
    yield ("Packages", "; ".join(text.replace(" ", ", ").replace("=", " ") for text in _distinct(rows, "packages")))
    for step in ("quantize", "sample", "evaluate"):
        yield (f"Code digest of {step}", ", ".join(map(_short, _distinct(rows, f"code_{step}"))))
    yield ("Weights sha256", ", ".join(f"{form} {digest}" for form, digest in _weights(rows)))


def _protocol(row: Row) -> str:
    """The protocol of a row: everything that determines its images. For imported images only their source is known."""
    if row["mode"] == IMPORTED:
        return f"{row['name']}: {row['images']} {'clips' if row.get('prompts') else 'images'} that another program made"
    what = describe_protocol(row["steps"], str(row["sampler"]), row["cfg_scale"])
    unit = "clips" if row["sampler"] == FLOW else "images"
    return (
        f"model {row['model']}, {what}, {row['images']} {unit} in chunks of {row['chunk']}, seed {row['seed']},"
        f" uint8 by {row['uint8']}, decoder {row['decoder']}; sha256 {_short(row['protocol_sha256'])}"
    )


def _evaluation(row: Row) -> str:
    if row["sampler"] == FLOW or (row["mode"] == IMPORTED and row.get("prompts")):
        return f"{row['evaluator']} (sha256 {_short(row['evaluator_sha256'])})"
    return (
        f"features of {row['evaluator']} (sha256 {_short(row['evaluator_sha256'])}),"
        f" reference {row['reference']} (sha256 {_short(row['reference_sha256'])})"
    )


def _mode(row: Row) -> str:
    meaning = " (values are quantized and dequantized in floating point)" if row["mode"] == "simulate" else ""
    return f"{row['mode']}{meaning}, backend {row['backend']}"


def _weights(rows: list[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["form"], _short(row["weights_sha256"])) for row in rows))


def _distinct(rows: list[Row], name: str) -> list[str]:
    return list(dict.fromkeys(str(row.get(name)) for row in rows))


def _short(digest: object) -> str:
    return str(digest)[:SHORT]
