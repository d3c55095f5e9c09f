"""Notes of Table 3: the scorer, the meaning of the scores, the cost of the clips."""

from qdit.core.metrics import DIMENSIONS
from qdit.metrics.vbench.driver import VERSION
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import PublishedRow
from qdit.report.data.rows import Block, is_measured

MINI_VBENCH = "mini-VBench (moving digits), not VBench’s scores"
VBENCH = f"clips scored by VBench {VERSION}"

MINI = (
    "Scores are of mini-VBench: VBench’s formulas with small networks that know moving digits (docs/video.md). They"
    " are no scores of VBench, and no total or rank beside VBench’s means anything.",
    "Totals: VBench’s weights, each dimension between pixel noise (0) and real clips of held-out digits (1) of the"
    " same prompts. mFVD: Fréchet distance of clip features to those real clips.",
)
REAL = (
    f"Scores are those of VBench {VERSION} itself, as it gives them; the totals are in its normalisation and with its"
    " weights. Its static filter is not used, as in Open-Sora’s own evaluation (docs/vbench.md).",
)
CHANCE = (
    "Ahead or behind: by the numbers; beyond chance: the 95 % interval of the paired difference, clips resampled,"
    " leaves out 0. Each dimension has an interval of its own; of sixteen, about one leaves out 0 by chance."
)
MEANS = "A dimension has an interval only if its score is the mean of its clips’ scores."
LINEARS = "In an STDiT3 a block has seven linears: qkv, projection, three of cross-attention, two of the MLP."


def remarks(blocks: tuple[Block, ...], printed: list[PublishedRow], name: str, *, mini: bool) -> list[str]:
    """The notes of the table `name`; `mini`: its scores are those of mini-VBench."""
    unknown = [dimension for dimension in DIMENSIONS if all(row.get(dimension) is None for row in printed)]
    sentences = [*(MINI if mini else REAL), CHANCE if mini else f"{CHANCE} {MEANS}", LINEARS]
    if unknown:
        sentences.append(
            f"The published numbers of {len(unknown)} dimensions are not known to us and stay blank:"
            f" {', '.join(map(str, unknown)).replace('_', ' ')}."
        )
    budgets = {
        (row["prompts"], row["images"], row["clip_flops"]) for block in blocks for row in block.rows if _told(row)
    }
    for prompts, clips, flops in sorted(budgets):
        sentences.append(
            f"Budget: {clips} clips a row ({prompts} prompts, {clips / prompts:g} of each);"
            f" {flops / 1e9:.1f} GFLOP a clip, {clips * flops / 1e12:.2f} TFLOP a row."
        )
    return [*sentences, f"The clips shown are also MP4 files, in {name}-clips/."]


def _told(row: Row) -> bool:
    """Whether a row has a wall time or a peak memory."""
    return is_measured(row) and bool(row.get("prompts")) and bool(row.get("clip_flops"))
