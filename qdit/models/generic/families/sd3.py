"""Stable Diffusion 3 and 3.5: in a block, attn2 is a second self-attention of the image tokens, not one to the text.

The modulation of a block with attn2 has nine parts, and the last three belong to attn2. The text modulation of the last
block has two parts, scale first.
"""

from dataclasses import replace

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import ADDED, IMAGE, QKV, TEXT, Modulated, attention, modulated_sources

SOURCES = modulated_sources(
    *IMAGE,
    *TEXT,
    *(replace(entry, chunks=9) for entry in IMAGE),
    Modulated("norm1.linear", 9, 6, 7, attention("attn2", QKV)),
    Modulated("norm1_context.linear", 2, 1, 0, attention("attn", ADDED)),
    values={"attn2.to_out.0": "attn2.to_v"},
)
FAMILIES = (
    GenericFamily(
        classes=("SD3Transformer2DModel",),
        patterns=((r"attn2\.to_[qkv]$", "qkv"), (r"attn2\.to_out\.0$", "attn_out")),
        fold_sources=SOURCES,
        pipeline="StableDiffusion3Pipeline",
    ),
)
