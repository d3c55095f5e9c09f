"""Plan the workflow of a profile: its runs, the commands of its jobs, its cost, and the files that it needs."""
