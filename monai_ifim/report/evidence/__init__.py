"""The page of results: what was asked of which networks, and how sure the answers are."""
