"""PixArt-α, PixArt-Σ and LTX-Video: a table in each block is added to one modulation of all blocks."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import SHARED_MODULATION

PIPELINES = {"PixArtTransformer2DModel": "PixArtSigmaPipeline", "LTXVideoTransformer3DModel": "LTXPipeline"}

FAMILIES = tuple(
    GenericFamily(classes=(name,), fold_sources=SHARED_MODULATION, pipeline=pipeline)
    for name, pipeline in PIPELINES.items()
)
