"""Quantizers of weights and activations, the quantized modules at sites, checkpoints, and sizes."""
