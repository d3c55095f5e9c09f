"""Sampling of images and clips: noise schedules, DDIM and DDPM steps, guidance, noise, and files of samples."""
