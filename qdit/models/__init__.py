"""Diffusion transformers with sites and roles, and the loading and converting of their weights."""
