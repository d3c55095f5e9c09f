"""VBench's sixteen dimensions: their names, their order in Q-DiT's Table 3, and what its totals weigh."""

DIMENSIONS = (
    "subject_consistency", "overall_consistency", "temporal_style", "appearance_style",
    "scene", "spatial_relationship", "color", "human_action",
    "multiple_objects", "object_class", "imaging_quality", "aesthetic_quality",
    "dynamic_degree", "motion_smoothness", "temporal_flickering", "background_consistency",
)  # fmt: skip
"""The sixteen, in the order of Q-DiT's Table 3: its two halves are the first and the last eight."""

QUALITY = (
    "subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness",
    "aesthetic_quality", "imaging_quality", "dynamic_degree",
)  # fmt: skip
"""Dimensions of VBench's quality total; the other nine make the semantic one."""

TOTALS = ("quality", "semantic", "total")
"""VBench's totals."""
