"""Training of the small published models: the mini DiT, the mini STDiT3 and the networks that score their samples."""
