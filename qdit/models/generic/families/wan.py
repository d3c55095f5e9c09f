"""Wan: one modulation of all blocks as in PixArt, and a LayerNorm with weights of its own before cross-attention."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, VALUES, Modulating, Normed, attention, modulated_sources

SOURCES = modulated_sources(
    Modulating(attention("attn1", QKV)),
    Normed("norm2", ("attn2.to_q",)),
    Modulating(("ffn.net.0.proj",)),
    values=VALUES,
)
FAMILIES = (GenericFamily(classes=("WanTransformer3DModel",), fold_sources=SOURCES, pipeline="WanPipeline"),)
