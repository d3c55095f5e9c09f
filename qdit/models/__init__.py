"""Diffusion transformers whose replaceable modules (sites) have roles. It also loads and converts their weights."""
