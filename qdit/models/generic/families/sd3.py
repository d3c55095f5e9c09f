"""Stable Diffusion 3 and 3.5: attn2 of a block is a second attention of the image tokens, not one to the text.

A block with this attention has nine parts of modulation; the last three are its own. The text of the last block has two
parts, scale first.
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
