"""The claims of the papers, and verdicts that say whether the numbers of a run support them."""
