"""Make the HTML pages: tables, claims, comparison, leaderboard, the report of a run."""
