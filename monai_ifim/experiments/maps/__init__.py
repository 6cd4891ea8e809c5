"""Attribution maps, how they are compared, and what deleting by them does."""
