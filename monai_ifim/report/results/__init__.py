"""The page of results of the experiments."""
