"""Tables, figures, claims, votes and pages, made from result files alone; never with torch."""
