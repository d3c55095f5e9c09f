"""Chroma: like FLUX, but its blocks have no modulation linears.

One small network computes the modulation of all blocks.
"""

from qdit.models.generic.families.flux import BLOCKS
from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import ADDED, QKV, Modulating, attention, modulated_sources

SOURCES = modulated_sources(
    Modulating((*attention("attn", QKV), "proj_mlp")),
    Modulating(attention("attn", ADDED)),
    Modulating(("ff.net.0.proj",)),
    Modulating(("ff_context.net.0.proj",)),
)
FAMILIES = (
    GenericFamily(
        classes=("ChromaTransformer2DModel",), blocks=BLOCKS, fold_sources=SOURCES, pipeline="ChromaPipeline"
    ),
)
