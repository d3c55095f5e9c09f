"""DiT (Peebles & Xie, 2023) as diffusers has it."""

from qdit.models.generic.family import GenericFamily

FAMILIES = (
    GenericFamily(
        classes=("DiTTransformer2DModel",), patterns=((r"proj_out_1$", "final_adaln"),), pipeline="DiTPipeline"
    ),
)
