"""Searches for group sizes: one size for each layer, by Algorithm 1 of Q-DiT or by a search compared with it."""
