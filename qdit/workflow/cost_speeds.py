"""Compute the speed of GPUs for each kind of work, from data sheets.

Sampling, calibration and searches run the network in half precision on tensor cores. The simulated quantizers also read
and write memory between the products. So an evaluation takes

    operations / (REACHED · peak of float16) + operations · BYTES_PER_OPERATION / (MOVED · bandwidth)

seconds. Quantization (ranges, Hessians, learned rounding) computes in float32. It takes operations / (REACHED · peak of
float32) seconds. With the option `matmul: tf32` learned rounding computes its products in TensorFloat-32. Then the time
of moving numbers counts too, LEARNING_BYTES for each operation; but it is never slower than float32. REACHED and MOVED
are the assumed fractions of the peak and of the bandwidth. The peaks are those of dense matrices, with sums in float32.
**Nothing here was measured.** `qdit.workflow.cost.measured_speed` measures a card from finished jobs.
"""

from dataclasses import dataclass

REACHED, MOVED = 0.6, 0.8
"""Parts of the peaks of operations and of bandwidth that are assumed to be reached."""
BYTES_PER_OPERATION = 140e3 / 33.0e6
"""Of DiT-XL/2 at 256: 140 KB for each token and block outside the products, counted from the code; 24 D² + 4 T D
operations. Full precision moves 117 KB. A quantizer reads and writes half precision, which are 4 bytes for each of the
5 D inputs of the attention output and of fc2; the others are rounded to half precision in full precision too."""
LEARNING_BYTES = 2 * 248e3 / 33.0e6
"""Of learned rounding, which is in float32: twice the bytes that separate conversions take in sampling."""


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: peak operations per second by type of number, and bytes per second of its memory."""

    name: str
    half_peak: float
    float32_peak: float
    tf32_peak: float
    bandwidth: float
    source: str

    @property
    def half(self) -> float:
        """Estimated operations per second of simulated sampling in half precision."""
        return 1 / (1 / (REACHED * self.half_peak) + BYTES_PER_OPERATION / (MOVED * self.bandwidth))

    @property
    def float32(self) -> float:
        """Estimated operations per second of learned rounding in float32."""
        return REACHED * self.float32_peak

    @property
    def tf32(self) -> float:
        """Estimated operations per second of learned rounding with products in TensorFloat-32."""
        moving = LEARNING_BYTES / (MOVED * self.bandwidth)
        return max(self.float32, 1 / (1 / (REACHED * self.tf32_peak) + moving))


CARDS = {
    card.name: card
    for card in (
        Card("A100", 312e12, 19.5e12, 156e12, 2.039e12, "NVIDIA A100 data sheet, SXM 80 GB"),
        Card("H100", 989e12, 67e12, 494.7e12, 3.35e12, "NVIDIA H100 data sheet, SXM; half of the values with sparsity"),
        Card("H200", 989e12, 67e12, 494.7e12, 4.8e12, "NVIDIA H200 data sheet, SXM; half of the value with sparsity"),
        Card("RTX 4090", 165.2e12, 82.6e12, 82.6e12, 1.008e12, "NVIDIA Ada GPU architecture paper, appendix A"),
    )
}
"""Name → card."""
DEFAULT_CARD = "H100"
"""Card of an estimate for GPUs, where nothing was measured."""
PRINTED_CARDS = ("A100", "H100")
"""Cards whose hours are printed for each table."""
