"""HTML pages: tables, claims, comparison, leaderboard, the report."""
