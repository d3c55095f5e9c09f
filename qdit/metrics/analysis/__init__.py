"""Arrays for the figures about models: activations, weights, and errors along sampling trajectories."""
