"""Attribution maps, and how they are compared."""
