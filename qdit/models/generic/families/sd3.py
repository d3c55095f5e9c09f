"""Stable Diffusion 3 and 3.5: attn2 of a block is a second attention of the image tokens, not one to the text."""

from qdit.models.generic.family import GenericFamily

FAMILIES = (
    GenericFamily(
        classes=("SD3Transformer2DModel",),
        patterns=((r"attn2\.to_[qkv]$", "qkv"), (r"attn2\.to_out\.0$", "attn_out")),
        pipeline="StableDiffusion3Pipeline",
    ),
)
