"""AuraFlow: in an MLP, linear_1 and linear_2 compute gate and value, and out_projection is the last linear.

Its modulation linears have no bias. They cannot absorb the 1 in 1 + scale, so the linears divide their own input.
Blocks of one stream have one V.
"""

from qdit.models.generic.family import GenericFamily
from qdit.models.generic.sources import ADDED, QKV, Modulating, attention, modulated_sources

GATED = ("linear_1", "linear_2")
SOURCES = modulated_sources(
    Modulating(attention("attn", QKV)),
    Modulating(attention("attn", ADDED)),
    Modulating(attention("ff", GATED)),
    Modulating(attention("ff_context", GATED)),
    values={"attn.to_out.0": "attn.to_v"},
)
FAMILIES = (
    GenericFamily(
        classes=("AuraFlowTransformer2DModel",),
        patterns=((r"\.ff_context\.linear_[12]$", "txt_fc1"), (r"\.ff\.linear_[12]$", "fc1")),
        blocks=("joint_transformer_blocks", "single_transformer_blocks"),
        fold_sources=SOURCES,
        pipeline="AuraFlowPipeline",
    ),
)
