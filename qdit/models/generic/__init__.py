"""Any transformer of diffusers as a network with sites.

Common patterns give the roles; some families have a small file.
"""
