"""Chroma: like FLUX, but its blocks have no modulation linears.

One small network computes the modulation of all blocks.
"""

from qdit.models.generic.families.flux import BLOCKS
from qdit.models.generic.family import GenericFamily

FAMILIES = (GenericFamily(classes=("ChromaTransformer2DModel",), blocks=BLOCKS, pipeline="ChromaPipeline"),)
