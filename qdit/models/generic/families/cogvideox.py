"""CogVideoX: each linear of a block reads text and video tokens.

One modulation linear gives both modulations, in different rows.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, Modulated, attention, modulated_sources

TEXT = ((3, 4),)
"""Parts of the text tokens' shift and scale."""

SOURCES = modulated_sources(
    Modulated("norm1.linear", 6, 0, 1, attention("attn1", QKV), TEXT),
    Modulated("norm2.linear", 6, 0, 1, ("ff.net.0.proj",), TEXT),
    values={"attn1.to_out.0": "attn1.to_v"},
)
FAMILIES = (
    GenericFamily(classes=("CogVideoXTransformer3DModel",), fold_sources=SOURCES, pipeline="CogVideoXPipeline"),
)
