"""Tables, figures, claims, votes and pages, made from result files alone. Nothing here imports torch."""
