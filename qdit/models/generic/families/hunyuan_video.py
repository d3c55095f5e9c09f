"""HunyuanVideo: blocks with separate layers for video and text, then blocks with common layers, as in FLUX.

Blocks of its own refine the text tokens before.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import TWO_STREAMS

FAMILIES = (
    GenericFamily(
        classes=("HunyuanVideoTransformer3DModel",), fold_sources=TWO_STREAMS, pipeline="HunyuanVideoPipeline"
    ),
)
