"""Samplers: noise schedules, DDIM and DDPM updates, guidance, noise, and sample chunks."""
