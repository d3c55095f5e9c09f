"""Training of the small shipped models: the mini DiT, the mini STDiT3 and the networks that score them."""
