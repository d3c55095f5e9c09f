"""The papers' claims and whether a run supports them."""
