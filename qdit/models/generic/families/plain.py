"""Families for which the common table says everything but the name of the pipeline."""

from qdit.models.generic.family import GenericFamily

PIPELINES = {
    "PixArtTransformer2DModel": "PixArtSigmaPipeline",
    "SanaTransformer2DModel": "SanaPipeline",
    "HunyuanDiT2DModel": "HunyuanDiTPipeline",
    "WanTransformer3DModel": "WanPipeline",
    "CogVideoXTransformer3DModel": "CogVideoXPipeline",
    "LTXVideoTransformer3DModel": "LTXPipeline",
}

FAMILIES = tuple(GenericFamily(classes=(name,), pipeline=pipeline) for name, pipeline in PIPELINES.items())
