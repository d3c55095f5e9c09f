"""Commits as pages write them."""


def commit_words(commit: str) -> str:
    """Write a recorded commit for a page. Its last character '+' means that files differed from it."""
    return f"{commit[:-1]} with uncommitted changes" if commit.endswith("+") else commit
