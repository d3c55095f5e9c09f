"""FLUX and FLUX.2 (Black Forest Labs).

The first blocks have separate layers for image and text tokens. In the later blocks both share the layers.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import TWO_STREAMS

BLOCKS = ("transformer_blocks", "single_transformer_blocks")

FAMILIES = (
    GenericFamily(
        classes=("FluxTransformer2DModel",), blocks=BLOCKS, fold_sources=TWO_STREAMS, pipeline="FluxPipeline"
    ),
    GenericFamily(
        classes=("Flux2Transformer2DModel",),
        blocks=BLOCKS,
        patterns=((r"single_transformer_blocks\.\d+\.attn\.to_out$", "out_fc2"),),
        pipeline="Flux2Pipeline",
    ),
)
