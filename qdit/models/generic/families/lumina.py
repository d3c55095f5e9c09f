"""Lumina 2: the first blocks read only text tokens, the next only noisy image tokens, and the last read both."""

from qdit.models.generic.family import GenericFamily

FAMILIES = (
    GenericFamily(
        classes=("Lumina2Transformer2DModel",),
        patterns=((r"^norm_out\.linear_1$", "final_adaln"), (r"^norm_out\.linear_2$", "final")),
        blocks=("context_refiner", "noise_refiner", "layers"),
        pipeline="Lumina2Pipeline",
    ),
)
