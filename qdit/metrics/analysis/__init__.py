"""What figures show of models: activations, weights and errors along sampling trajectories, as arrays."""
