"""Write the notes of Table 3: the scorer, the meaning of the scores, the cost of the clips."""

from qdit.core.metrics import DIMENSIONS
from qdit.metrics.vbench.driver import VERSION
from qdit.report.data.metrics_json import Row
from qdit.report.data.published import PublishedRow
from qdit.report.data.rows import Block, is_measured

MINI_VBENCH = "mini-VBench (moving digits), not VBench’s scores"
VBENCH = f"clips scored by VBench {VERSION}"

MINI = (
    "The scores are those of mini-VBench: VBench’s formulas with small networks for moving digits (docs/video.md)."
    " They are not scores of VBench: totals and ranks cannot be compared with VBench’s.",
    "Totals: VBench’s weights; each dimension is scaled so that pixel noise has 0 and real clips of held-out digits"
    " with the same prompts have 1. mFVD: Fréchet distance of clip features to these real clips.",
)
REAL = (
    f"VBench {VERSION} itself computes the scores; the totals use its normalisation and its weights."
    " Its static filter is not used, as in the evaluation of Open-Sora (docs/vbench.md).",
)
CHANCE = (
    "Ahead or behind: by the numbers. Beyond chance: by the 95 % interval of the paired difference (bootstrap over"
    " clips), with Holm’s correction over the dimensions."
)
MEANS = "A dimension has an interval only if its score is the mean of its clips’ scores."
LINEARS = "In an STDiT3 a block has seven linears: qkv, projection, three of cross-attention, two of the MLP."


def remarks(blocks: tuple[Block, ...], printed: list[PublishedRow], name: str, *, mini: bool) -> list[str]:
    """Return the notes of the table `name`. `mini` says that mini-VBench gave the scores."""
    unknown = [dimension for dimension in DIMENSIONS if all(row.get(dimension) is None for row in printed)]
    sentences = [*(MINI if mini else REAL), CHANCE if mini else f"{CHANCE} {MEANS}", LINEARS]
    if unknown:
        sentences.append(
            f"Our copy of the paper lacks the numbers of {len(unknown)} dimensions; they stay blank:"
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
    """Whether a row has the cost of its clips (floating-point operations)."""
    return is_measured(row) and bool(row.get("prompts")) and bool(row.get("clip_flops"))
