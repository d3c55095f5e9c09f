"""Lumina 2: the text is refined first, then the noisy tokens, then both together."""

from qdit.models.generic.family import GenericFamily

FAMILIES = (
    GenericFamily(
        classes=("Lumina2Transformer2DModel",),
        patterns=((r"^norm_out\.linear_1$", "final_adaln"), (r"^norm_out\.linear_2$", "final")),
        blocks=("context_refiner", "noise_refiner", "layers"),
        pipeline="Lumina2Pipeline",
    ),
)
