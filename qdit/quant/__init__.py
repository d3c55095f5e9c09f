"""Quantizers of weights and activations, the sites they stand at, checkpoints, sizes, parity with the originals."""
