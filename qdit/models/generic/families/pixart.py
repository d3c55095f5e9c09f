"""PixArt-α, PixArt-Σ and LTX-Video: one modulation serves all blocks, and each block adds a table of its own to it."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import SHARED_MODULATION

PIPELINES = {"PixArtTransformer2DModel": "PixArtSigmaPipeline", "LTXVideoTransformer3DModel": "LTXPipeline"}

FAMILIES = tuple(
    GenericFamily(classes=(name,), fold_sources=SHARED_MODULATION, pipeline=pipeline)
    for name, pipeline in PIPELINES.items()
)
