"""Metrics as a ladder: images → features → statistics → value; the pure parts are float64 numpy functions."""
