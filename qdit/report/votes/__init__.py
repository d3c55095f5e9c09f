"""Let people compare images without knowing the method (blind): the page, and the statistics of their votes."""
