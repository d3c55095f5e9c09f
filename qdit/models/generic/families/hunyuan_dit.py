"""HunyuanDiT: every norm before a linear has a weight and a bias. The timestep only adds a shift to the first norm."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, VALUES, Normed, attention, modulated_sources

SOURCES = modulated_sources(
    Normed("norm1.norm", attention("attn1", QKV), shift="norm1.linear"),
    Normed("norm2", ("attn2.to_q",)),
    Normed("norm3", ("ff.net.0.proj",)),
    Normed("skip_norm", ("skip_linear",)),
    values=VALUES,
)
FAMILIES = (GenericFamily(classes=("HunyuanDiT2DModel",), fold_sources=SOURCES, pipeline="HunyuanDiTPipeline"),)
