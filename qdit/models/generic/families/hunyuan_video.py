"""HunyuanVideo: blocks with separate layers for video and text, then blocks with shared layers, as in FLUX.

Before these blocks, a few small blocks refine the text tokens.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import TWO_STREAMS

FAMILIES = (
    GenericFamily(
        classes=("HunyuanVideoTransformer3DModel",), fold_sources=TWO_STREAMS, pipeline="HunyuanVideoPipeline"
    ),
)
