"""Latte: blocks over space and blocks over time alternate."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import SHARED_MODULATION

FAMILIES = (
    GenericFamily(
        classes=("LatteTransformer3DModel",),
        blocks=("transformer_blocks", "temporal_transformer_blocks"),
        interleaved=True,
        fold_sources=SHARED_MODULATION,
        pipeline="LattePipeline",
    ),
)
