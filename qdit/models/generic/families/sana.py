"""Sana: one modulation of all blocks as in PixArt, linear attention, and an MLP of 1×1 convolutions."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, VALUES, Modulating, attention, modulated_sources

SOURCES = modulated_sources(
    Modulating(attention("attn1", QKV)),
    Modulating(("ff.conv_inverted",)),
    values=VALUES,
)
FAMILIES = (GenericFamily(classes=("SanaTransformer2DModel",), fold_sources=SOURCES, pipeline="SanaPipeline"),)
