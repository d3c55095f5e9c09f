"""Lumina 2: the first blocks read only text tokens, the next only noisy image tokens, and the last read both.

An RMSNorm with a weight stands before each attention and MLP; only a scale follows it. Several heads share one V, so V
absorbs no factor.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, Normed, attention, modulated_sources

SOURCES = modulated_sources(
    Normed("norm1.norm", attention("attn", QKV)),
    Normed("norm1", attention("attn", QKV)),  # in blocks that compute the text tokens
    Normed("ffn_norm1", ("feed_forward.linear_1", "feed_forward.linear_3")),
)
FAMILIES = (
    GenericFamily(
        classes=("Lumina2Transformer2DModel",),
        patterns=((r"^norm_out\.linear_1$", "final_adaln"), (r"^norm_out\.linear_2$", "final")),
        blocks=("context_refiner", "noise_refiner", "layers"),
        fold_sources=SOURCES,
        pipeline="Lumina2Pipeline",
    ),
)
