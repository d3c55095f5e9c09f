"""Training of the small shipped models: the mini DiT and the instruments that score it."""
