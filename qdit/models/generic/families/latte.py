"""Latte: spatial and temporal blocks alternate."""

from qdit.models.generic.family import GenericFamily

FAMILIES = (
    GenericFamily(
        classes=("LatteTransformer3DModel",),
        blocks=("transformer_blocks", "temporal_transformer_blocks"),
        interleaved=True,
        pipeline="LattePipeline",
    ),
)
