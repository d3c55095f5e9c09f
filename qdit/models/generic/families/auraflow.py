"""AuraFlow: in an MLP, linear_1 and linear_2 compute gate and value, and out_projection is the last linear."""

from qdit.models.generic.family import GenericFamily

FAMILIES = (
    GenericFamily(
        classes=("AuraFlowTransformer2DModel",),
        patterns=((r"\.ff_context\.linear_[12]$", "txt_fc1"), (r"\.ff\.linear_[12]$", "fc1")),
        blocks=("joint_transformer_blocks", "single_transformer_blocks"),
        pipeline="AuraFlowPipeline",
    ),
)
