"""The rows of a run while it is under way, and the tables at its end."""
