"""Profiles, commands of the jobs, cost, needed files: all that the plan of the workflow is made of."""
