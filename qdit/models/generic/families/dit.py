"""DiT (Peebles & Xie, 2023) as diffusers has it: separate linears for queries, keys and values."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import QKV, Modulated, attention, modulated_sources

SOURCES = modulated_sources(
    Modulated("norm1.linear", 6, 0, 1, attention("attn1", QKV)),
    Modulated("norm1.linear", 6, 3, 4, ("ff.net.0.proj",)),
    values={"attn1.to_out.0": "attn1.to_v"},
)
FAMILIES = (GenericFamily(classes=("DiTTransformer2DModel",), fold_sources=SOURCES, pipeline="DiTPipeline"),)
