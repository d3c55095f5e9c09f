"""FLUX and FLUX.2 (Black Forest Labs).

The first blocks have separate layers for image and text tokens. In the later blocks both share the layers. FLUX has a
modulation linear in each block. In FLUX.2 one linear gives the modulation of all blocks, so the layers divide their
own input.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import ADDED, QKV, TWO_STREAMS, Modulating, attention, modulated_sources

BLOCKS = ("transformer_blocks", "single_transformer_blocks")
SHARED = modulated_sources(
    Modulating(attention("attn", QKV)),
    Modulating(attention("attn", ADDED)),
    Modulating(("ff.linear_in",)),
    Modulating(("ff_context.linear_in",)),
    Modulating(("attn.to_qkv_mlp_proj",)),
)
"""Fold sources of FLUX.2."""

FAMILIES = (
    GenericFamily(
        classes=("FluxTransformer2DModel",), blocks=BLOCKS, fold_sources=TWO_STREAMS, pipeline="FluxPipeline"
    ),
    GenericFamily(
        classes=("Flux2Transformer2DModel",),
        blocks=BLOCKS,
        patterns=((r"single_transformer_blocks\.\d+\.attn\.to_out$", "out_fc2"),),
        fold_sources=SHARED,
        pipeline="Flux2Pipeline",
    ),
)
