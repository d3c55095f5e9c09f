"""Qwen-Image: the modulation linears of a block are `img_mod.1` and `txt_mod.1`."""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import ADDED, QKV, Modulated, attention, modulated_sources

SOURCES = modulated_sources(
    Modulated("img_mod.1", 6, 0, 1, attention("attn", QKV)),
    Modulated("img_mod.1", 6, 3, 4, ("img_mlp.net.0.proj",)),
    Modulated("txt_mod.1", 6, 0, 1, attention("attn", ADDED)),
    Modulated("txt_mod.1", 6, 3, 4, ("txt_mlp.net.0.proj",)),
)
FAMILIES = (
    GenericFamily(classes=("QwenImageTransformer2DModel",), fold_sources=SOURCES, pipeline="QwenImagePipeline"),
)
