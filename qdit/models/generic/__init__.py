"""Any transformer of diffusers as a network with sites: one table of role patterns, and a small file for a family."""
