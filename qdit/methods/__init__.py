"""Quantization methods: their base class, the registry and Q-DiT. The compared methods are in baselines/."""
