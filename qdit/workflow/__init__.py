"""The plan of the workflow: profiles, commands of the jobs, cost, and needed files."""
