"""Post-training quantization of diffusion transformers: benchmark and reproducibility suite."""

__version__ = "0.1.0"
