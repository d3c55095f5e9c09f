"""Registry of metrics: the only list of metrics. Each entry says how one metric is named, computed, printed and shown.

Tables, pages, claims, the leaderboard, figures, intervals and metrics.json read it. To add a metric of images, add one
entry: its `function` names the code that computes it, and `resampled` the code that computes its values on resampled
images, for the interval.
"""

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from qdit.core.errors import ConfigError
from qdit.core.number_text import fixed, four_decimals, percent, printed_size, scientific, significant, size

Of = Literal["images", "clips", "both", "checkpoint", "row"]
"""What is measured: images, clips, either, the stored checkpoint, or what a table derives for its rows."""
Better = Literal["lower", "higher", ""]
Page = Literal["paper", "table1", "table3", "table6", "integer", "variants", "transfer", "qc", "leaderboard", "runs",
               "folders", "figures", "tools"]  # fmt: skip
"""`paper` are the papers' comparisons and Table 4; `runs` and `folders` are the two forms of `qdit compare`."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its direction, the code that computes it, and where it is shown.

    `title` is its name for readers. `function` computes it for images, and `resampled` computes its bootstrap values.
    Both are texts `module:name` below the room `metrics`; `qdit.metrics.image_metrics` shows the signatures. The
    program that scores clips gives the metrics of clips. `stored` is `section.key` of the value in metrics.json, if
    that is not `metrics.<name>`.
    """

    name: str
    title: str
    of: Of
    better: Better = ""
    write: Callable[[float], str] = four_decimals
    heading: str = ""
    """Heading of the column; by default the title with an arrow."""
    function: str = ""
    resampled: str = ""
    stored: str = ""
    optional: bool = False
    """Whether a run may have no value (null)."""
    of_features: bool = False
    """Whether it needs features of the samples, which VBench does not give."""
    paired: bool = False
    """Whether it compares with full precision's samples of the same noise."""
    bounded: bool = False
    """Whether it has a 95 % interval by bootstrap."""
    mean: bool = False
    """Whether it is a mean over images or clips, whose resampled values are not shifted."""
    printed: tuple[str, ...] = ()
    """Papers that print it."""
    shows_change: bool = False
    """Whether the difference to full precision stands beside it."""
    in_front: bool = False
    """Whether the CSV has it among its first columns."""
    about: str = ""
    """What it is, for readers: the end of a sentence that begins with the title."""
    unit: str = ""
    ratios: bool = False
    """Whether two values are compared by their ratio, on a logarithmic axis; else by their difference."""
    perfect: float = math.nan
    """Value of samples that equal those of full precision. If it is infinite, a run has no value (null) instead."""
    ranks: str = ""
    """Why tables rank rows by it, for readers: the end of a sentence. One metric has it; the others have none."""
    board_interval: bool = False
    """Whether the leaderboard shows its interval; that of a paired metric stands in other tables too."""
    pages: tuple[Page, ...] = ()
    claim: str = ""
    """Function of the language of claims; the name unless given."""
    total: Literal["quality", "semantic", ""] = ""
    """VBench's total that a dimension belongs to."""
    weight: float = 1.0
    """Weight of a dimension in its total."""
    turn: int = 0
    """When a dimension is added to its total (the last bits of a sum depend on it); equal ones in order of columns."""

    @property
    def column_heading(self) -> str:
        """Heading of a column: the title, and an arrow for the better direction."""
        return self.heading or f"{self.title}{ {'lower': ' ↓', 'higher': ' ↑', '': ''}[self.better] }"

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better."""
        return self.better == "lower"

    def damage(self, value: float) -> float:
        """The value as a number that grows with damage: −value where larger values are better, else the value."""
        return float(value) if self.better != "higher" else -float(value)

    @property
    def direction(self) -> str:
        """Which values are better, for readers: `smaller is better`; empty if neither."""
        return {"lower": "smaller is better", "higher": "larger is better", "": ""}[self.better]

    @property
    def axis_title(self) -> str:
        """Title with the unit, for an axis or a heading: `PSNR-FP (dB)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def reading(self) -> str:
        """One sentence for readers: what the metric is, its unit, and which values are better."""
        unit = f", in {self.unit}" if self.unit else ""
        return f"{self.title} is {self.about}{unit} ({self.direction})."

    def text(self, value: float) -> str:
        """A value with its unit."""
        return f"{self.write(value)} {self.unit}".strip()

    @property
    def json_path(self) -> tuple[str, str]:
        """Section and key of this metric's value in metrics.json."""
        section, _, key = (self.stored or f"metrics.{self.name}").partition(".")
        return section, key

    @property
    def low_and_high(self) -> tuple[str, str]:
        """Names of the two table columns with the ends of this metric's interval."""
        return f"{self.name}_low", f"{self.name}_high"


IMAGE_PAPERS = ("Q-DiT", "PTQ4DiT", "TQ-DiT")
HERE, JUDGED = "qdit.metrics.image_metrics", "qdit.metrics.judged_metrics"


def _dimension(name: str, total: Literal["quality", "semantic"], turn: int = 0, weight: float = 1.0) -> Metric:
    """One of VBench's sixteen dimensions."""
    title = name.replace("_", " ").capitalize()
    return Metric(name, title, "clips", "higher", optional=True, bounded=True, mean=True, printed=("Q-DiT",),
                  pages=("table3",), total=total, weight=weight, turn=turn)  # fmt: skip


def _total(name: str, title: str) -> Metric:
    """One of VBench's totals."""
    return Metric(name, title, "clips", "higher", optional=True, bounded=True, mean=True, pages=("table3",))


ENTRIES = (
    Metric("fid", "FID", "images", "lower", fixed(2), function=f"{HERE}:fid", resampled=f"{HERE}:resampled_fid",
           bounded=True, printed=IMAGE_PAPERS, shows_change=True, in_front=True, board_interval=True,
           ratios=True,
           pages=("paper", "table1", "table6", "integer", "variants", "transfer", "leaderboard", "runs", "folders",
                  "figures", "tools")),
    Metric("sfid", "sFID", "images", "lower", fixed(2), optional=True, function=f"{HERE}:sfid",
           resampled=f"{HERE}:resampled_sfid", bounded=True, printed=IMAGE_PAPERS, shows_change=True, in_front=True,
           pages=("paper", "table1", "table6", "variants", "transfer", "leaderboard", "runs")),
    Metric("is", "IS", "images", "higher", fixed(2), function=f"{HERE}:inception",
           resampled=f"{HERE}:resampled_inception",
           bounded=True, printed=IMAGE_PAPERS, shows_change=True, in_front=True, claim="inception_score",
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs")),
    Metric("precision", "Precision", "images", "higher", optional=True, function=f"{HERE}:precision",
           resampled=f"{HERE}:resampled_precision", bounded=True, mean=True, printed=IMAGE_PAPERS, shows_change=True,
           in_front=True, pages=("paper", "table1", "table6", "variants", "leaderboard", "runs")),
    Metric("recall", "Recall", "images", "higher", function=f"{HERE}:recall", optional=True),
    Metric("class_accuracy", "Class accuracy", "images", "higher", function=f"{HERE}:class_accuracy",
           resampled=f"{HERE}:resampled_class_accuracy", optional=True, bounded=True, mean=True, pages=("runs",)),
    _dimension("subject_consistency", "quality", turn=1),
    _dimension("overall_consistency", "semantic"),
    _dimension("temporal_style", "semantic"),
    _dimension("appearance_style", "semantic"),
    _dimension("scene", "semantic"),
    _dimension("spatial_relationship", "semantic"),
    _dimension("color", "semantic"),
    _dimension("human_action", "semantic"),
    _dimension("multiple_objects", "semantic"),
    _dimension("object_class", "semantic"),
    _dimension("imaging_quality", "quality", turn=6),
    _dimension("aesthetic_quality", "quality", turn=5),
    _dimension("dynamic_degree", "quality", turn=7, weight=0.5),
    _dimension("motion_smoothness", "quality", turn=4),
    _dimension("temporal_flickering", "quality", turn=3),
    _dimension("background_consistency", "quality", turn=2),
    _total("quality", "Quality total"),
    _total("semantic", "Semantic total"),
    _total("total", "Total"),
    Metric("mfvd", "mFVD", "clips", "lower", significant, of_features=True, optional=True, bounded=True,
           pages=("table3",)),
    Metric("fd_fp", "FD-FP", "both", "lower", significant, function=f"{HERE}:distance_to_full_precision",
           resampled=f"{HERE}:resampled_distance_to_full_precision", optional=True, of_features=True, paired=True,
           bounded=True, in_front=True, board_interval=True, ratios=True, perfect=0.0,
           about="the Fréchet distance to the full-precision samples of the same noise",
           pages=("paper", "table1", "table3", "table6", "integer", "variants", "transfer", "qc", "leaderboard", "runs",
                  "folders", "tools")),
    Metric("mse_fp", "MSE-FP", "both", "lower", scientific, function=f"{HERE}:error_to_full_precision",
           resampled=f"{HERE}:resampled_error_to_full_precision", optional=True, paired=True, bounded=True, mean=True,
           in_front=True, ratios=True, perfect=0.0,
           about="the mean squared difference of pixels to the full-precision samples of the same noise",
           pages=("paper", "table1", "table3", "table6", "integer", "variants", "transfer", "qc", "leaderboard", "runs",
                  "folders", "tools")),
    Metric("mind_fp", "MIND-FP", "both", "lower", significant, function=f"{HERE}:sliced_to_full_precision",
           resampled=f"{HERE}:resampled_sliced_to_full_precision", optional=True, of_features=True, paired=True,
           bounded=True, pages=("paper", "table1", "table3", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("psnr_fp", "PSNR-FP", "both", "higher", fixed(2), function=f"{HERE}:peak_ratio",
           resampled=f"{HERE}:resampled_peak_ratio", optional=True, paired=True, bounded=True, mean=True,
           in_front=True, board_interval=True, unit="dB", perfect=math.inf,
           about="the peak signal-to-noise ratio of pixels to the full-precision samples of the same noise",
           ranks="in the power study it told the most pairs of methods apart (docs/power-study.md); FD-FP, which"
                 " compares features, can give another order",
           pages=("paper", "table1", "table3", "table6", "integer", "variants", "transfer", "leaderboard", "runs",
                  "folders", "figures", "tools")),
    Metric("ssim_fp", "SSIM-FP", "both", "higher", function=f"{HERE}:similarity",
           resampled=f"{HERE}:resampled_similarity", optional=True, paired=True, bounded=True, mean=True,
           pages=("paper", "table1", "table3", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("lpips_fp", "LPIPS-FP", "images", "lower", function=f"{HERE}:perceptual",
           resampled=f"{HERE}:resampled_perceptual", optional=True, paired=True, bounded=True, mean=True,
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("clip_score", "CLIP score", "images", "higher", fixed(2), function=f"{JUDGED}:clip_score",
           resampled=f"{JUDGED}:resampled_clip_score", optional=True, bounded=True, mean=True,
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("image_reward", "ImageReward", "images", "higher", function=f"{JUDGED}:image_reward",
           resampled=f"{JUDGED}:resampled_image_reward", optional=True, bounded=True, mean=True,
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("fd_dino", "FD-DINOv2", "images", "lower", significant, function=f"{JUDGED}:dino_distance",
           resampled=f"{JUDGED}:resampled_dino_distance", optional=True, bounded=True,
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("fd_dino_fp", "FD-DINOv2-FP", "images", "lower", significant,
           function=f"{JUDGED}:dino_distance_to_full_precision",
           resampled=f"{JUDGED}:resampled_dino_distance_to_full_precision", optional=True, paired=True, bounded=True,
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("mind", "MIND", "images", "lower", significant, function=f"{HERE}:sliced_to_reference",
           resampled=f"{HERE}:resampled_sliced_to_reference", optional=True, bounded=True,
           pages=("paper", "table1", "table6", "variants", "leaderboard", "runs", "folders")),
    Metric("size_mb", "size", "checkpoint", write=printed_size, heading="Size (MB)", stored="size.paper_mb",
           printed=("Q-DiT", "PTQ4DiT"), in_front=True, pages=("paper", "table1", "table3", "leaderboard")),
    Metric("size_actual_mb", "size on disk", "checkpoint", write=size, heading="Size (MB)", stored="size.actual_mb",
           optional=True),
    Metric("disk_mb", "On disk (MB)", "row", write=size, pages=("tools",)),
    Metric("memory_mb", "In memory (MB)", "row", write=size, pages=("tools",)),
    Metric("memory_real_mb", "In memory, integer or tool (MB)", "row", write=size, pages=("tools",)),
    Metric("over_fp_simulated", "Speed, × FP, simulated", "row", write=fixed(2), pages=("tools",)),
    Metric("over_fp_real", "Speed, × FP, integer or tool", "row", write=fixed(2), pages=("tools",)),
    Metric("speed_simulated", "Images/s, simulated", "row", write=significant, pages=("tools",)),
    Metric("speed_real", "Images/s, integer or tool", "row", write=significant, pages=("tools",)),
    Metric("bits_per_weight", "Bits per weight, stored", "row", write=fixed(2)),
    Metric("block_ms", "DiT-XL/2 block (ms)", "row", write=fixed(1)),
    Metric("block_float32", "× float32", "row", write=fixed(2)),
    Metric("block_bfloat16", "× bfloat16", "row", write=fixed(2)),
    Metric("block_float32_two", "× float32, 2 threads", "row", write=fixed(2)),
    Metric("block_bfloat16_two", "× bfloat16, 2 threads", "row", write=fixed(2)),
    Metric("block_gpu_ms", "GPU: block (ms)", "row", write=significant),
    Metric("block_gpu_float32", "GPU: × float32", "row", write=fixed(2)),
    Metric("block_gpu_bfloat16", "GPU: × bfloat16", "row", write=fixed(2)),
    Metric("ratio_fd_fp", "FD-FP ÷ base", "row", write=significant, pages=("variants", "transfer")),
    Metric("latent_largest", "Latents: largest difference", "row", write=scientific, pages=("integer",)),
    Metric("latent_mean", "Latents: mean difference", "row", write=scientific, pages=("integer",)),
    Metric("images_sampled", "Images sampled", "row", write=fixed(0), pages=("table6",)),
    Metric("budget_used", "Budget used", "row", write=percent, pages=("table6", "transfer")),
    Metric("harmonic_mean_group_size", "Mean g", "row", write=fixed(1), pages=("table6", "transfer")),
)  # fmt: skip
"""In the order of columns."""

METRICS: dict[str, Metric] = {metric.name: metric for metric in ENTRIES}
"""Name → metric, in the order of columns."""

DIMENSIONS = tuple(metric.name for metric in ENTRIES if metric.total)
"""VBench's sixteen, in the order of Q-DiT's Table 3: its two halves are the first and the last eight."""
TOTALS = ("quality", "semantic", "total")
"""VBench's totals."""


def metric_names(which: Callable[[Metric], bool]) -> tuple[str, ...]:
    """Names of the metrics for which `which` is true, in the order of columns."""
    return tuple(name for name, metric in METRICS.items() if which(metric))


def of_images(metric: Metric) -> bool:
    """Whether a run of images has this metric."""
    return metric.of in ("images", "both")


def of_clips(metric: Metric) -> bool:
    """Whether a run of clips has this metric."""
    return metric.of in ("clips", "both")


def shown_on(page: Page) -> tuple[str, ...]:
    """Names of the metrics that a page shows, in the order of columns.

    The metric that ranks stands before the other paired metrics. On the pages `paper` and `table1`, the sizes of
    checkpoints stand before all other metrics.
    """
    names = metric_names(lambda metric: page in metric.pages)
    names = tuple(sorted(names, key=lambda name: _place(METRICS[name])))
    return sizes_first(names) if page in ("paper", "table1") else names


def _place(metric: Metric) -> int:
    """Place of a metric among the columns; the one that ranks stands before the first paired one."""
    first = next(place for place, entry in enumerate(METRICS.values()) if entry.paired)
    return 2 * first - 1 if metric.ranks else 2 * list(METRICS).index(metric.name)


def sizes_first(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, but sizes of checkpoints stand before all other metrics."""
    return tuple(sorted(names, key=lambda name: METRICS[name].of != "checkpoint"))


def compared() -> tuple[str, ...]:
    """Names of the metrics that papers about images print; the size comes first."""
    return sizes_first(metric_names(lambda metric: bool(metric.printed) and metric.of != "clips"))


def changed() -> tuple[str, ...]:
    """Names of the metrics that are also shown as a difference to the full-precision row of the block."""
    return metric_names(lambda metric: metric.shows_change)


def bounded_of_images() -> tuple[str, ...]:
    """Names of the metrics of images that have a 95 % interval."""
    return metric_names(lambda metric: metric.bounded and of_images(metric))


def paired() -> tuple[str, ...]:
    """Names of the metrics that compare with full-precision samples of the same noise."""
    return metric_names(lambda metric: metric.paired)


def controlled() -> tuple[str, ...]:
    """Names of the distances to full precision that quality control compares with the distances of its controls."""
    return metric_names(lambda metric: metric.paired and "qc" in metric.pages)


def claim_functions() -> dict[str, Metric]:
    """Each function name that a claim may call → the metric that it reads."""
    readable = [metric for metric in METRICS.values() if metric.of in ("images", "both", "checkpoint")]
    return {metric.claim or metric.name: metric for metric in readable}


def resolve(path: str) -> Callable[..., Any]:
    """The function that a text `module:function` names; ConfigError if it does not exist."""
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise ConfigError(f"metric function {path!r}: {problem}; name it as module:function") from None
    if not callable(function):
        raise ConfigError(f"metric function {path!r}: is not a function; name one as module:function")
    return function


def modules_of_images() -> tuple[str, ...]:
    """Names of the modules that compute metrics of images; a digest of the evaluation includes their code."""
    named = [path.partition(":")[0] for metric in METRICS.values() for path in (metric.function, metric.resampled)]
    return tuple(dict.fromkeys(name for name in named if name))
