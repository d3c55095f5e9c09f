"""What the workflow is planned from: profiles, commands of the jobs, cost, needed files."""
