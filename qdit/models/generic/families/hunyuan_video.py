"""HunyuanVideo: blocks with two streams, then blocks with one, as FLUX; the text is refined before."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import TWO_STREAMS

FAMILIES = (
    GenericFamily(
        classes=("HunyuanVideoTransformer3DModel",), fold_sources=TWO_STREAMS, pipeline="HunyuanVideoPipeline"
    ),
)
