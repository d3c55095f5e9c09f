"""Granularity allocation: a group size for every layer, by Algorithm 1 of Q-DiT or one of its rivals."""
