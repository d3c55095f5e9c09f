"""Quantization methods: the contract, the registry and Q-DiT; the compared methods are in baselines/."""
