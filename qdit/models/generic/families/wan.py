"""Wan: one modulation serves all blocks, as in PixArt. The LayerNorm before cross-attention has weights of its own."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, VALUES, Modulating, Normed, attention, modulated_sources

SOURCES = modulated_sources(
    Modulating(attention("attn1", QKV)),
    Normed("norm2", ("attn2.to_q",)),
    Modulating(("ffn.net.0.proj",)),
    values=VALUES,
)
FAMILIES = (GenericFamily(classes=("WanTransformer3DModel",), fold_sources=SOURCES, pipeline="WanPipeline"),)
