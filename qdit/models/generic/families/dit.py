"""DiT (Peebles & Xie, 2023) as diffusers has it."""

from torch import nn

from qdit.models.generic.family import GenericFamily
from qdit.models.roles import FoldSource

FAMILIES = (GenericFamily(classes=("DiTTransformer2DModel",), patterns=((r"proj_out_1$", "final_adaln"),), pipeline="DiTPipeline"),)
